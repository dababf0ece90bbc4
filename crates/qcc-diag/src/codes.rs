//! The table of all codes. A new code is one row here, one page in `docs/errors/`, and one row of
//! the index there.
//!
//! Families: 01 files and reading ONNX, 02 unsupported ops, types and opsets, 03 options and
//! pipeline text, 04 calibration and evaluation data, 05 resources, 06 quantization,
//! 07 machine code, 08 verification and gates, 09 bugs in qcc.

use std::fmt;

/// A code such as `QCC0101`, with its title and page.
#[derive(Clone, Copy)]
pub struct Code {
    name: &'static str,
    title: &'static str,
    page: &'static str,
}

impl Code {
    /// The name, `QCC` and four digits.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// What the code is about, in a few words.
    pub fn title(self) -> &'static str {
        self.title
    }

    /// The page that `qcc explain` prints, in Markdown.
    pub fn page(self) -> &'static str {
        self.page
    }

    /// The two digits of the family.
    pub fn family(self) -> &'static str {
        &self.name[3..5]
    }

    /// Finds a code by name; upper or lower case, with or without `QCC`.
    pub fn find(name: &str) -> Option<Self> {
        let digits = name.trim_start_matches(['q', 'Q', 'c', 'C']);
        ALL.iter().find(|it| &it.name[3..] == digits).copied()
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Code {}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! codes {
    ($($name:ident $title:literal)*) => {
        $(
            #[doc = $title]
            pub const $name: Code = Code {
                name: stringify!($name),
                title: $title,
                page: include_str!(concat!("../../../docs/errors/", stringify!($name), ".md")),
            };
        )*
        /// Every code, in order.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    // 01 files and reading ONNX
    QCC0101 "a file cannot be read"
    QCC0102 "not an ONNX model"
    QCC0103 "the model breaks a rule of ONNX"
    QCC0104 "external data cannot be used"
    QCC0105 "the output cannot be written"
    QCC0106 "the output exists"
    QCC0107 "an output is an input"
    QCC0108 "the model holds fields that qcc does not know"
    QCC0109 "the model was repaired on reading"
    QCC0110 "not a record of a run"
    QCC0111 "weights are in a file beside the model"
    // 02 unsupported
    QCC0201 "an operator cannot be executed"
    QCC0202 "a type or shape does not fit"
    QCC0203 "the opset cannot be raised"
    QCC0204 "ONNX Runtime does not load the versions of the model"
    // 03 options and pipeline text
    QCC0301 "a pass or recipe is unknown"
    QCC0302 "an option of a pass is wrong"
    QCC0303 "the pipeline text cannot be read"
    QCC0304 "an option of the command is wrong"
    QCC0305 "the format cannot carry the weight"
    QCC0306 "the text of a graph cannot be read"
    QCC0311 "a pattern matches no weight"
    QCC0312 "the budget is too small"
    // 04 calibration and evaluation data
    QCC0401 "the samples cannot be read"
    QCC0402 "the samples do not fit the model"
    QCC0403 "fewer samples or tokens than asked for"
    QCC0404 "the model cannot be evaluated"
    QCC0405 "the models cannot be compared"
    QCC0406 "the model cannot write text"
    QCC0407 "too few samples to keep one for trials"
    QCC0408 "a value of the model is not finite"
    // 05 resources
    QCC0501 "the memory limit is too small"
    QCC0502 "there is no room for the codes"
    QCC0503 "a run does not fit into memory"
    QCC0507 "unfinished work of another run is left where it is"
    QCC0508 "finished blocks of an earlier run are used"
    QCC0509 "interrupted"
    QCC0510 "the time for tuning is too short"
    // 06 quantization
    QCC0601 "nothing was quantized"
    QCC0602 "a weight was left in float"
    QCC0603 "codes are stored in a wider field"
    QCC0604 "the model is quantized already"
    QCC0605 "calibration was replaced by pseudo activations"
    QCC0606 "a weight was tuned by itself"
    QCC0607 "a weight holds values that are not finite"
    QCC0608 "a quantized weight is kept in float as well"
    QCC0609 "the runtime has no fast kernel"
    QCC0610 "the number of steps follows from the time"
    QCC0611 "several nodes read one weight"
    QCC0620 "bits were chosen to a budget"
    // 07 machine code
    QCC0701 "machine code cannot be made"
    QCC0702 "no product to make code for"
    QCC0703 "a product is left out of the code"
    QCC0704 "the linker cannot be used"
    // 08 verification
    QCC0801 "a pass broke an invariant"
    QCC0802 "results differ"
    // 09 bugs
    QCC0901 "a bug in qcc"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_order() {
        assert!(ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    /// What a page lacks; `None` when it has all its parts.
    fn lack(code: Code) -> Option<&'static str> {
        let head = format!("# {code}: {}\n\n", code.title());
        let Some(rest) = code.page().strip_prefix(&head) else { return Some("title") };
        let Some((meaning, rest)) = rest.split_once("## Example\n\n") else {
            return Some("example");
        };
        let Some((example, way)) = rest.split_once("\n## Way out\n\n") else {
            return Some("way out");
        };
        let message = format!("[{code}]: ");
        let shows = |block: &str| {
            let is_command = block.starts_with("$ ") && block.contains("\n");
            // No command leads to a bug.
            let of_a_bug = [QCC0801, QCC0901].contains(&code);
            block.contains(&message) && (is_command || of_a_bug)
        };
        let block = example.strip_prefix("```text\n").and_then(|it| it.strip_suffix("```\n"));
        match () {
            () if meaning.trim().is_empty() => Some("meaning"),
            () if !block.is_some_and(shows) => Some("command and message in the example"),
            () if way.trim().is_empty() => Some("way out"),
            () => None,
        }
    }

    #[test]
    fn every_page_has_title_meaning_example_and_way_out() {
        let lacks: Vec<_> = ALL.iter().filter_map(|it| Some((it, lack(*it)?))).collect();
        assert!(lacks.is_empty(), "{lacks:?}");
    }

    #[test]
    fn the_index_names_every_page() {
        let index = include_str!("../../../docs/errors/README.md");
        for code in ALL {
            let row = format!("| [{code}]({code}.md) | {} |\n", code.title());
            assert!(index.contains(&row), "{row:?} is not in the index");
        }
    }

    #[test]
    fn find_by_name() {
        assert_eq!(Code::find("qcc0101"), Some(QCC0101));
        assert_eq!(Code::find("0607"), Some(QCC0607));
        assert_eq!(Code::find("QCC9999"), None);
    }
}
