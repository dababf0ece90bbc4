//! Patterns for weights: `--include`, `--exclude` and `--set`.
//!
//! A pattern is a regular expression that must match the whole name of a weight or of a node that
//! reads it, or that node's name from the start of a path part on.

use std::num::NonZeroU32;
use std::str::FromStr as _;

use qcc_diag::{Diagnostic, codes};
use qcc_quant::spec::{Bits, Grid, GroupSize};
use regex_lite::Regex;

use crate::sites::Site;

/// A pattern that remembers whether it has matched.
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
    matched: bool,
}

impl Pattern {
    pub(crate) fn new(option: &str, text: &str) -> Result<Self, Diagnostic> {
        let regex = Regex::new(&format!("^(?:{text})$")).map_err(|error| {
            Diagnostic::error(codes::QCC0304, format!("--{option} '{text}': {error}"))
                .at(format!("option --{option}"))
                .with_help("patterns are regular expressions; quote special characters with \\")
        })?;
        Ok(Self { text: text.to_owned(), regex, matched: false })
    }

    pub(crate) fn matches(&mut self, site: &Site) -> bool {
        let found = self.regex.is_match(&site.name) || self.regex.is_match(&site.label);
        self.matched |= found;
        found
    }

    /// An error when it has matched nothing.
    pub(crate) fn check(&self, option: &str, sites: &[Site]) -> Result<(), Diagnostic> {
        if self.matched {
            return Ok(());
        }
        let mut message = Diagnostic::error(
            codes::QCC0311,
            format!("--{option} '{}' matches no weight", self.text),
        )
        .at(format!("option --{option}"));
        if let Some(site) = sites.first() {
            message = message.with_note(format!(
                "weights of this model look like '{}', read by '{}' ({} of them); a pattern must match a whole name",
                site.name, site.label, sites.len()
            ));
        }
        Err(message.with_help("qcc inspect MODEL --weights lists all of them"))
    }
}

/// What `--set` changes for the weights that its pattern matches.
pub(crate) struct Override {
    pub(crate) pattern: Pattern,
    pub(crate) skip: bool,
    pub(crate) bits: Option<Bits>,
    pub(crate) group: Option<GroupSize>,
    pub(crate) grid: Option<Grid>,
}

impl Override {
    /// Reads `RE:bits=8,group=64,sym` or `RE:skip`.
    pub(crate) fn parse(text: &str) -> Result<Self, Diagnostic> {
        let wrong = |what: String| {
            Diagnostic::error(codes::QCC0304, format!("--set '{text}': {what}"))
                .at("option --set")
                .with_help("write --set 'PATTERN:bits=8,group=64' or --set 'PATTERN:skip'")
        };
        let Some((pattern, settings)) = text.rsplit_once(':') else {
            return Err(wrong("there is no ':'".to_owned()));
        };
        let pattern = Pattern::new("set", pattern)?;
        let mut it = Self { pattern, skip: false, bits: None, group: None, grid: None };
        for setting in settings.split(',') {
            match setting.trim().split_once('=').unwrap_or((setting.trim(), "")) {
                ("skip", "") => it.skip = true,
                ("sym", "") => it.grid = Some(Grid::Sym),
                ("asym", "") => it.grid = Some(Grid::Asym),
                ("bits", value) => {
                    let bits = value.parse().ok().and_then(Bits::new);
                    it.bits =
                        Some(bits.ok_or_else(|| wrong(format!("bits are 2 to 8, not '{value}'")))?);
                }
                ("group" | "group-size", value) => {
                    let size = group(value);
                    it.group =
                        Some(size.ok_or_else(|| wrong(format!("'{value}' is no group size")))?);
                }
                (key, _) => return Err(wrong(format!("'{key}' is unknown"))),
            }
        }
        Ok(it)
    }
}

/// A group size as options spell it: a number, `row`, or 0 for the whole row.
pub(crate) fn group(text: &str) -> Option<GroupSize> {
    match text {
        "0" => Some(GroupSize::Row),
        _ => match GroupSize::from_str(text).ok()? {
            GroupSize::Of(size) => NonZeroU32::new(size.get()).map(GroupSize::Of),
            GroupSize::Row => Some(GroupSize::Row),
        },
    }
}
