//! Options of passes: what a pass declares, and the values that hold for one run of it.

use std::fmt;

use crate::PassInfo;
use crate::names::nearest;
use crate::text::quoted;

/// An option that a pass takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptionInfo {
    /// Name in pipeline text, in `kebab-case`.
    pub name: &'static str,
    /// What values it takes.
    pub kind: OptionKind,
    /// Value when none is given, as text. It may be a word that is no value of the kind (`auto`,
    /// `1/iters`): the pass then decides, and reads it with [`Options::opt_int`] or
    /// [`Options::opt_float`].
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

impl OptionInfo {
    /// Whether its default is a value that it takes, or a word where that is allowed.
    pub(crate) fn has_default(&self) -> bool {
        let is_number = matches!(self.kind, OptionKind::Int { .. } | OptionKind::Float { .. });
        let is_word = self.default.parse::<f64>().is_err() && !self.default.is_empty();
        read(self.kind, self.default).is_some() || (is_number && is_word)
    }
}

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptionKind {
    /// An integer.
    Int {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A finite number.
    Float {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// A list of integers, `[2,4,8]`.
    Ints {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
}

/// What an option takes, in words.
impl fmt::Display for OptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn bounds<T: fmt::Display + PartialOrd>(
            [min, max]: [T; 2],
            [least, most]: [T; 2],
        ) -> String {
            match (least < min, max < most) {
                (true, true) => format!(" from {min} to {max}"),
                (true, false) => format!(" of at least {min}"),
                (false, true) => format!(" of at most {max}"),
                (false, false) => String::new(),
            }
        }
        match *self {
            Self::Int { min, max } => {
                write!(f, "an integer{}", bounds([min, max], [i64::MIN, i64::MAX]))
            }
            Self::Float { min, max } => {
                write!(f, "a number{}", bounds([min, max], [f64::MIN, f64::MAX]))
            }
            Self::Bool => f.write_str("true or false"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::Text => f.write_str("text"),
            Self::Ints { min, max } => {
                write!(f, "a list [a,b] of integers{}", bounds([min, max], [i64::MIN, i64::MAX]))
            }
        }
    }
}

/// The options of one run of a pass: every option that it declares has a value.
///
/// The accessors panic on a name that the pass does not declare, or declares with another kind:
/// that is a bug in the pass, which the manager reports as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pass: &'static str,
    infos: &'static [OptionInfo],
    /// One for each of `infos`.
    values: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq)]
enum Setting {
    Int(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    Ints(Vec<i64>),
    /// A default that leaves the choice to the pass.
    Open(&'static str),
}

/// Why an option cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The pass has no such option.
    #[error("pass '{pass}' has no option '{option}'")]
    Unknown {
        /// The pass.
        pass: &'static str,
        /// What was asked for.
        option: String,
        /// The option with the nearest name, if one is near.
        nearest: Option<&'static str>,
    },
    /// The value is not one of those that the option takes.
    #[error("option '{option}' of pass '{pass}' takes {want}, not '{got}'")]
    Value {
        /// The pass.
        pass: &'static str,
        /// The option.
        option: &'static str,
        /// What it takes, in words.
        want: String,
        /// What was given.
        got: String,
    },
}

impl Options {
    /// The defaults of a pass.
    pub fn of(pass: &PassInfo) -> Self {
        let default = |info: &OptionInfo| {
            read(info.kind, info.default).unwrap_or(Setting::Open(info.default))
        };
        let values = pass.options.iter().map(default).collect();
        Self { pass: pass.name, infos: pass.options, values }
    }

    /// Sets an option from text.
    ///
    /// # Errors
    /// When the pass has no such option, or the option does not take the value.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), OptionError> {
        let Some(position) = self.position(name) else {
            let nearest = nearest(name, self.infos.iter().map(|it| it.name));
            return Err(OptionError::Unknown { pass: self.pass, option: name.to_owned(), nearest });
        };
        let info = &self.infos[position];
        self.values[position] = match read(info.kind, text) {
            Some(value) => value,
            None if text == info.default => Setting::Open(info.default),
            None => {
                let want = match read(info.kind, info.default) {
                    Some(_) => info.kind.to_string(),
                    None => format!("{} or '{}'", info.kind, info.default),
                };
                let (pass, option, got) = (self.pass, info.name, text.to_owned());
                return Err(OptionError::Value { pass, option, want, got });
            }
        };
        Ok(())
    }

    /// The options with one of them set from text.
    ///
    /// # Errors
    /// As [`Options::set`].
    pub fn with(mut self, name: &str, text: &str) -> Result<Self, OptionError> {
        self.set(name, text)?;
        Ok(self)
    }

    /// Whether the pass declares an option of this name.
    pub fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Names and values, as text, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.infos.iter().zip(&self.values).map(|(info, value)| (info.name, value.to_string()))
    }

    /// Whether the pass takes no options.
    pub fn is_empty(&self) -> bool {
        self.infos.is_empty()
    }

    /// Value of an `Int`.
    ///
    /// # Panics
    /// When there is no such option; so do all accessors.
    pub fn int(&self, name: &str) -> i64 {
        match self.setting(name) {
            Setting::Int(it) => *it,
            it => self.misread(name, it),
        }
    }

    /// Value of a `Float`.
    pub fn float(&self, name: &str) -> f64 {
        match self.setting(name) {
            Setting::Float(it) => *it,
            it => self.misread(name, it),
        }
    }

    /// Value of an `Int`; `None` where its default leaves the choice to the pass.
    pub fn opt_int(&self, name: &str) -> Option<i64> {
        match self.setting(name) {
            Setting::Open(_) => None,
            _ => Some(self.int(name)),
        }
    }

    /// Value of a `Float`; `None` where its default leaves the choice to the pass.
    pub fn opt_float(&self, name: &str) -> Option<f64> {
        match self.setting(name) {
            Setting::Open(_) => None,
            _ => Some(self.float(name)),
        }
    }

    /// Value of a `Bool`.
    pub fn flag(&self, name: &str) -> bool {
        match self.setting(name) {
            Setting::Flag(it) => *it,
            it => self.misread(name, it),
        }
    }

    /// Value of a `Text` or `Choice`.
    pub fn text(&self, name: &str) -> &str {
        match self.setting(name) {
            Setting::Text(it) => it,
            Setting::Open(it) => it,
            it => self.misread(name, it),
        }
    }

    /// Value of an `Ints`.
    pub fn ints(&self, name: &str) -> &[i64] {
        match self.setting(name) {
            Setting::Ints(it) => it,
            it => self.misread(name, it),
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.infos.iter().position(|it| it.name == name)
    }

    fn setting(&self, name: &str) -> &Setting {
        match self.position(name) {
            Some(it) => &self.values[it],
            None => panic!("pass '{}' declares no option '{name}'", self.pass),
        }
    }

    fn misread(&self, name: &str, value: &Setting) -> ! {
        panic!("option '{name}' of pass '{}' is read with another kind than {value:?}", self.pass)
    }
}

/// All options with their values, `bits=4,group=64`, as [`crate::Pipeline::parse`] reads them.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, (name, value)) in self.iter().enumerate() {
            let comma = if idx > 0 { "," } else { "" };
            write!(f, "{comma}{name}={}", quoted(&value))?;
        }
        Ok(())
    }
}

/// The value as text, without quotes; reading it back gives an equal value.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(it) => it.fmt(f),
            Self::Flag(it) => it.fmt(f),
            Self::Text(it) => f.write_str(it),
            Self::Open(it) => f.write_str(it),
            // `Debug` takes an exponent where there would be many zeros.
            Self::Float(it) => {
                let text = format!("{it:?}");
                f.write_str(text.strip_suffix(".0").unwrap_or(&text))
            }
            Self::Ints(list) => {
                let list: Vec<String> = list.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", list.join(","))
            }
        }
    }
}

fn read(kind: OptionKind, text: &str) -> Option<Setting> {
    match kind {
        OptionKind::Int { min, max } => {
            let it = text.parse().ok()?;
            (min..=max).contains(&it).then_some(Setting::Int(it))
        }
        OptionKind::Float { min, max } => {
            let it: f64 = text.parse().ok()?;
            (it.is_finite() && (min..=max).contains(&it)).then_some(Setting::Float(it))
        }
        OptionKind::Bool => text.parse().ok().map(Setting::Flag),
        OptionKind::Choice(words) => words.contains(&text).then(|| Setting::Text(text.to_owned())),
        OptionKind::Text => Some(Setting::Text(text.to_owned())),
        OptionKind::Ints { min, max } => {
            let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
            if inner.is_empty() {
                return Some(Setting::Ints(Vec::new()));
            }
            let list: Vec<i64> =
                inner.split(',').map(|it| it.trim().parse().ok()).collect::<Option<_>>()?;
            list.iter().all(|it| (min..=max).contains(it)).then_some(Setting::Ints(list))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::KNOBS;

    #[test]
    fn defaults_are_read_by_kind() {
        let options = Options::of(&KNOBS);
        assert_eq!(options.int("bits"), 4);
        assert_eq!(options.opt_int("bits"), Some(4));
        assert_eq!(options.float("damp"), 0.01);
        assert_eq!(options.opt_float("lr"), None);
        assert!(!options.flag("fast"));
        assert_eq!(options.text("layout"), "nbits");
        assert_eq!(options.text("match"), "");
        assert_eq!(options.ints("widths"), [2, 4, 8]);
        assert_eq!(
            options.to_string(),
            "bits=4,damp=0.01,lr=1/iters,fast=false,layout=nbits,match=\"\",widths=[2,4,8]"
        );
    }

    #[test]
    fn values_are_set_from_text() {
        let mut options = Options::of(&KNOBS);
        for (name, text) in
            [("bits", "8"), ("lr", "1e-300"), ("fast", "true"), ("widths", "[]"), ("match", "a b")]
        {
            options.set(name, text).unwrap();
        }
        assert_eq!(options.int("bits"), 8);
        assert_eq!(options.opt_float("lr"), Some(1e-300));
        assert!(options.flag("fast"));
        assert_eq!(
            options.to_string(),
            "bits=8,damp=0.01,lr=1e-300,fast=true,layout=nbits,match=\"a b\",widths=[]"
        );
        // A default that leaves the choice to the pass can be asked for again.
        options.set("lr", "1/iters").unwrap();
        assert_eq!(options.opt_float("lr"), None);
    }

    #[test]
    fn values_that_are_not_taken() {
        let check =
            |name: &str, text: &str| Options::of(&KNOBS).with(name, text).unwrap_err().to_string();
        let bits = "option 'bits' of pass 'knobs' takes an integer from 2 to 8, not";
        assert_eq!(check("bits", "9"), format!("{bits} '9'"));
        assert_eq!(check("bits", "four"), format!("{bits} 'four'"));
        assert_eq!(check("bits", "4.0"), format!("{bits} '4.0'"));
        let damp = "option 'damp' of pass 'knobs' takes a number of at least 0, not";
        assert_eq!(check("damp", "-1"), format!("{damp} '-1'"));
        assert_eq!(check("damp", "inf"), format!("{damp} 'inf'"));
        assert_eq!(check("damp", "NaN"), format!("{damp} 'NaN'"));
        assert_eq!(
            check("lr", "auto"),
            "option 'lr' of pass 'knobs' takes a number or '1/iters', not 'auto'"
        );
        assert!(check("fast", "1").ends_with("takes true or false, not '1'"));
        assert!(check("layout", "nbit").ends_with("takes one of nbits, qdq, not 'nbit'"));
        assert!(check("widths", "[2,9]").contains("a list [a,b] of integers from 2 to 8"));
        assert!(check("widths", "2,4").contains("a list"));
        let nearest = Some("widths");
        let unknown = OptionError::Unknown { pass: "knobs", option: "width".into(), nearest };
        assert_eq!(Options::of(&KNOBS).with("width", "1"), Err(unknown));
    }

    #[test]
    #[should_panic(expected = "pass 'knobs' declares no option 'bit'")]
    fn a_pass_may_read_only_what_it_declares() {
        Options::of(&KNOBS).int("bit");
    }

    #[test]
    #[should_panic(expected = "read with another kind")]
    fn a_pass_may_read_only_with_the_kind_that_it_declares() {
        Options::of(&KNOBS).float("bits");
    }
}
