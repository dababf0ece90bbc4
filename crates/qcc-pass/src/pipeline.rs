//! Pipelines: which passes run, in which order, with which options; and their text.

use std::fmt;

use qcc_diag::{Diagnostic, codes};

use crate::names::nearest;
use crate::text::{self, Item, ItemOption, SyntaxError};
use crate::{OptionError, Options, PassInfo};

/// A pass with its options.
#[derive(Clone, Debug)]
pub struct Step {
    /// The pass.
    pub pass: &'static PassInfo,
    /// All of its options.
    pub options: Options,
}

/// A name for a pipeline text. In pipeline text it stands for its steps, and an option given to
/// it, `kl{bits=3}`, is given to each of them that takes it. A pass of the same name goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The name, in `kebab-case`.
    pub name: &'static str,
    /// What it is good for, in one line.
    pub summary: &'static str,
    /// The text that it stands for.
    pub text: &'static str,
}

/// Passes in the order in which they run.
///
/// As text it is `select,rtn{bits=4,group=64},pack{layout=nbits}`. Printing writes out every
/// option, so that the text means the same when defaults change; reading it back gives an equal
/// pipeline.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    steps: Vec<Step>,
}

impl Step {
    /// A pass with its defaults.
    pub fn new(pass: &'static PassInfo) -> Self {
        Self { pass, options: Options::of(pass) }
    }
}

impl Pipeline {
    /// A pipeline of these steps.
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps }
    }

    /// Reads a text. `table` holds the passes that may be named.
    ///
    /// # Errors
    /// QCC0301 for a name that is neither pass nor recipe, QCC0302 for an option that the pass
    /// does not take, QCC0303 for what is not pipeline text; all with the column.
    pub fn parse(
        text: &str,
        table: &[&'static PassInfo],
        recipes: &[Recipe],
    ) -> Result<Self, Box<Diagnostic>> {
        let mut resolver = Resolver { table, recipes, inside: Vec::new(), steps: Vec::new() };
        resolver.resolve(text, &[])?;
        Ok(Self { steps: resolver.steps })
    }

    /// The steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Where a pass first stands; `None` when it is not part of it.
    pub fn position(&self, pass: &str) -> Option<usize> {
        self.steps.iter().position(|it| it.pass.name == pass)
    }

    /// What is left from a step on.
    #[must_use]
    pub fn from_step(&self, step: usize) -> Self {
        Self { steps: self.steps.get(step..).unwrap_or_default().to_vec() }
    }

    /// The step of that pass.
    ///
    /// # Errors
    /// QCC0301 when it is not part of the pipeline; `asked` is the option that names it.
    pub fn find(&self, pass: &str, asked: &str) -> Result<usize, Box<Diagnostic>> {
        self.position(pass).ok_or_else(|| {
            let text = format!("{asked} '{pass}' names no pass of the pipeline");
            let names = self.steps.iter().map(|it| it.pass.name);
            let it = Diagnostic::error(codes::QCC0301, text).at(format!("option {asked}"));
            Box::new(match nearest(pass, names.clone()) {
                Some(near) => it.with_help(format!("{asked} {near}")),
                None => it.with_note(format!("it has {}", names.collect::<Vec<_>>().join(", "))),
            })
        })
    }
}

/// Every option written out: `rtn{bits=4,group=64},to-nbits`.
impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, step) in self.steps.iter().enumerate() {
            if idx > 0 {
                f.write_str(",")?;
            }
            step.fmt(f)?;
        }
        Ok(())
    }
}

/// `rtn{bits=4,group=64}`, or the name alone when the pass takes no options.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.options.is_empty() {
            return f.write_str(self.pass.name);
        }
        write!(f, "{}{{{}}}", self.pass.name, self.options)
    }
}

struct Resolver<'a> {
    table: &'a [&'static PassInfo],
    recipes: &'a [Recipe],
    /// The recipes that are being expanded, from outside in.
    inside: Vec<Recipe>,
    steps: Vec<Step>,
}

impl Resolver<'_> {
    /// Adds the steps of a text. Each of `given` goes to every pass that takes it, and goes before
    /// what the text says.
    fn resolve(&mut self, text: &str, given: &[Given]) -> Result<(), Box<Diagnostic>> {
        let items = text::parse(text).map_err(|SyntaxError { column, what }| {
            Box::new(
                Diagnostic::error(codes::QCC0303, format!("the pipeline text is wrong: {what}"))
                    .at(self.place(column)),
            )
        })?;
        for item in &items {
            if let Some(pass) = self.table.iter().find(|it| it.name == item.name) {
                let mut step = Step::new(pass);
                for option in &item.options {
                    set(&mut step.options, &self.given(option))?;
                }
                for option in given {
                    if step.options.has(&option.name) {
                        set(&mut step.options, option)?;
                    }
                }
                self.steps.push(step);
            } else if let Some(recipe) = self.recipes.iter().find(|it| it.name == item.name) {
                self.expand(*recipe, item, given)?;
            } else {
                return Err(self.unknown(item));
            }
        }
        Ok(())
    }

    fn expand(
        &mut self,
        recipe: Recipe,
        item: &Item,
        given: &[Given],
    ) -> Result<(), Box<Diagnostic>> {
        if self.inside.contains(&recipe) {
            let text = format!("recipe '{}' contains itself", recipe.name);
            let place = self.place(item.column);
            return Err(Box::new(Diagnostic::error(codes::QCC0303, text).at(place)));
        }
        let first = self.steps.len();
        let own = item.options.iter().map(|it| self.given(it));
        let given: Vec<Given> = own.chain(given.iter().cloned()).collect();
        self.inside.push(recipe);
        self.resolve(recipe.text, &given)?;
        self.inside.pop();
        for option in &item.options {
            if !self.steps[first..].iter().any(|it| it.options.has(&option.name)) {
                let text =
                    format!("no pass of recipe '{}' has an option '{}'", recipe.name, option.name);
                let names = self.steps[first..].iter().flat_map(|it| it.pass.options);
                let near = nearest(&option.name, names.map(|it| it.name));
                let it = Diagnostic::error(codes::QCC0302, text).at(self.place(option.column));
                return Err(Box::new(with_nearest(it, near)));
            }
        }
        Ok(())
    }

    fn given(&self, option: &ItemOption) -> Given {
        let (name, value) = (option.name.clone(), option.value.clone());
        Given { name, value, place: self.place(option.column) }
    }

    fn unknown(&self, item: &Item) -> Box<Diagnostic> {
        let text = format!("there is no pass or recipe '{}'", item.name);
        let it = Diagnostic::error(codes::QCC0301, text).at(self.place(item.column));
        let passes = self.table.iter().map(|it| it.name);
        let near = nearest(&item.name, passes.chain(self.recipes.iter().map(|it| it.name)));
        Box::new(match near {
            None => it.with_help("qcc passes lists all of them"),
            near => with_nearest(it, near),
        })
    }

    fn place(&self, column: usize) -> String {
        match self.inside.last() {
            Some(recipe) => format!("text of recipe '{}', column {column}", recipe.name),
            None => format!("pipeline text, column {column}"),
        }
    }
}

/// An option, and where it was written.
#[derive(Clone)]
struct Given {
    name: String,
    value: String,
    place: String,
}

fn set(options: &mut Options, option: &Given) -> Result<(), Box<Diagnostic>> {
    options.set(&option.name, &option.value).map_err(|error| {
        let it = Diagnostic::error(codes::QCC0302, error.to_string()).at(&option.place);
        Box::new(match error {
            OptionError::Unknown { pass, nearest: None, .. } => {
                it.with_help(format!("qcc passes {pass} lists its options"))
            }
            OptionError::Unknown { nearest, .. } => with_nearest(it, nearest),
            OptionError::Value { .. } => it,
        })
    })
}

fn with_nearest(it: Diagnostic, near: Option<&str>) -> Diagnostic {
    match near {
        Some(near) => it.with_help(format!("write '{near}'")),
        None => it,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{KNOBS, TABLE};

    const RECIPES: &[Recipe] = &[
        Recipe { name: "quick", summary: "", text: "nothing,knobs{bits=3}" },
        Recipe { name: "twice", summary: "", text: "quick{damp=1},swap" },
        Recipe { name: "loop", summary: "", text: "swap,pool" },
        Recipe { name: "pool", summary: "", text: "loop" },
        Recipe { name: "stale", summary: "", text: "swap,gone" },
        // The pass of this name goes first.
        Recipe { name: "swap", summary: "", text: "nothing" },
    ];

    fn parse(text: &str) -> Result<Pipeline, Box<Diagnostic>> {
        Pipeline::parse(text, TABLE, RECIPES)
    }

    fn names(text: &str) -> Vec<&'static str> {
        parse(text).unwrap().steps().iter().map(|it| it.pass.name).collect()
    }

    #[test]
    fn every_option_is_printed() {
        let pipeline = parse("swap, knobs{bits=3}").unwrap();
        let options = "damp=0.01,lr=1/iters,fast=false,layout=nbits,match=\"\",widths=[2,4,8]";
        assert_eq!(pipeline.to_string(), format!("swap,knobs{{bits=3,{options}}}"));
        assert_eq!(pipeline.from_step(1).to_string(), format!("knobs{{bits=3,{options}}}"));
        assert_eq!(pipeline.from_step(2).to_string(), "");
        assert_eq!(parse("").unwrap().steps().len(), 0);
    }

    #[test]
    fn recipes_stand_for_their_steps() {
        assert_eq!(names("quick,swap"), ["nothing", "knobs", "swap"]);
        assert_eq!(names("twice"), ["nothing", "knobs", "swap"]);
        assert_eq!(names("swap"), ["swap"]);
    }

    #[test]
    fn options_of_a_recipe_go_to_its_passes() {
        let pipeline = parse("twice{bits=8,damp=2}").unwrap();
        let options = &pipeline.steps()[1].options;
        assert_eq!((options.int("bits"), options.float("damp")), (8, 2.0));
        let options = &parse("twice").unwrap().steps()[1].options.clone();
        assert_eq!((options.int("bits"), options.float("damp")), (3, 1.0));
    }

    #[test]
    fn messages() {
        let check = |text: &str, want: &str| {
            assert_eq!(parse(text).unwrap_err().to_string().trim_end(), want, "{text}");
        };
        check(
            "nothing,swab",
            "error[QCC0301]: there is no pass or recipe 'swab'\n  \
             --> pipeline text, column 9\n  help: write 'swap'\n  \
             more: qcc explain QCC0301",
        );
        check(
            "xyz",
            "error[QCC0301]: there is no pass or recipe 'xyz'\n  \
             --> pipeline text, column 1\n  help: qcc passes lists all of them\n  \
             more: qcc explain QCC0301",
        );
        check(
            "swap,knobs{ bits=9}",
            "error[QCC0302]: option 'bits' of pass 'knobs' takes an integer from 2 to 8, not '9'\n  \
             --> pipeline text, column 13\n  more: qcc explain QCC0302",
        );
        check(
            "knobs{bit=4}",
            "error[QCC0302]: pass 'knobs' has no option 'bit'\n  \
             --> pipeline text, column 7\n  help: write 'bits'\n  more: qcc explain QCC0302",
        );
        check(
            "swap{x=4}",
            "error[QCC0302]: pass 'swap' has no option 'x'\n  \
             --> pipeline text, column 6\n  help: qcc passes swap lists its options\n  \
             more: qcc explain QCC0302",
        );
        check(
            "swap,quick{bots=4}",
            "error[QCC0302]: no pass of recipe 'quick' has an option 'bots'\n  \
             --> pipeline text, column 12\n  help: write 'bits'\n  more: qcc explain QCC0302",
        );
        check(
            "quick{bits=9}",
            "error[QCC0302]: option 'bits' of pass 'knobs' takes an integer from 2 to 8, not '9'\n  \
             --> pipeline text, column 7\n  more: qcc explain QCC0302",
        );
        check(
            "swap;nothing",
            "error[QCC0301]: there is no pass or recipe 'swap;nothing'\n  \
             --> pipeline text, column 1\n  help: write 'swap'\n  more: qcc explain QCC0301",
        );
        check(
            "swap,{bits=4}",
            "error[QCC0303]: the pipeline text is wrong: a pass or recipe is wanted, not '{'\n  \
             --> pipeline text, column 6\n  more: qcc explain QCC0303",
        );
        check(
            "stale",
            "error[QCC0301]: there is no pass or recipe 'gone'\n  \
             --> text of recipe 'stale', column 6\n  help: qcc passes lists all of them\n  \
             more: qcc explain QCC0301",
        );
        check(
            "loop",
            "error[QCC0303]: recipe 'loop' contains itself\n  \
             --> text of recipe 'pool', column 1\n  more: qcc explain QCC0303",
        );
    }

    #[test]
    fn find_names_the_option() {
        let error = parse("swap,nothing").unwrap().find("swop", "--stop-after").unwrap_err();
        assert_eq!(error.message, "--stop-after 'swop' names no pass of the pipeline");
        assert_eq!(error.help, ["--stop-after swap"]);
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let knobs = (
            2..=8i64,
            0.0..1e300f64,
            proptest::option::of(any::<f64>().prop_filter("finite", |it| it.is_finite())),
            any::<bool>(),
            prop_oneof![Just("nbits"), Just("qdq")],
            any::<String>(),
            proptest::collection::vec(2..=8i64, 0..4),
        )
            .prop_map(|(bits, damp, lr, fast, layout, text, widths)| {
                let mut step = Step::new(&KNOBS);
                let lr = lr.map_or("1/iters".to_owned(), |it| it.to_string());
                let values = [
                    ("bits", bits.to_string()),
                    ("damp", damp.to_string()),
                    ("lr", lr),
                    ("fast", fast.to_string()),
                    ("layout", layout.to_owned()),
                    ("match", text),
                    ("widths", format!("{widths:?}")),
                ];
                for (name, value) in values {
                    step.options.set(name, &value).unwrap();
                }
                step
            });
        let plain = (0..TABLE.len()).prop_map(|it| Step::new(TABLE[it]));
        proptest::collection::vec(prop_oneof![knobs, plain], 0..5)
    }

    proptest! {
        #[test]
        fn text_round_trips(steps in steps()) {
            let text = Pipeline::new(steps.clone()).to_string();
            let back = parse(&text).unwrap();
            prop_assert_eq!(back.steps().len(), steps.len());
            for (a, b) in back.steps().iter().zip(&steps) {
                prop_assert_eq!(a.pass.name, b.pass.name);
                prop_assert_eq!(&a.options, &b.options);
            }
            prop_assert_eq!(back.to_string(), text);
        }
    }
}
