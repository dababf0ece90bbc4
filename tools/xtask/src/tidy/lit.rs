//! Lit tests hold only checks that can fail, and that LLVM's FileCheck and the Python one share.
//!
//! FileCheck passes over a directive that it does not know without a word. So every word in
//! capitals with a colon that starts a comment must be a directive of lit, or a prefix that a RUN
//! line declares, alone or with a known suffix. Numeric variables `[[#...]]` exist in LLVM only.

use super::Source;
use std::collections::BTreeSet;

/// Directives of lit itself.
const LIT: [&str; 8] =
    ["RUN", "REQUIRES", "UNSUPPORTED", "XFAIL", "END.", "ALLOW_RETRIES", "DEFINE", "REDEFINE"];

const SUFFIXES: [&str; 5] = ["NEXT", "SAME", "NOT", "DAG", "LABEL"];

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let tests = sources.iter().filter(|source| {
        source.path.starts_with("lit-tests/")
            && (source.path.ends_with(".qir") || source.path.ends_with(".test"))
            && !source.path.contains("/Inputs/")
    });
    tests.flat_map(check_test).collect()
}

fn check_test(source: &Source) -> Vec<String> {
    let prefixes = declared(&source.text);
    let mut found = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        let mut report = |what: String| found.push(format!("{}:{}: {what}", source.path, i + 1));
        if line.contains("[[#") {
            report("numeric variables are not in every FileCheck".to_owned());
        }
        let Some((word, end)) = directive(line) else { continue };
        if end == '{' {
            report(format!("'{word}{{' is not in every FileCheck"));
        } else if !LIT.contains(&word) && !is_check(word, &prefixes) {
            report(format!("no RUN line checks '{word}:'"));
        }
    }
    found
}

/// The word in capitals that starts a comment, and what follows it: a colon or a brace.
fn directive(line: &str) -> Option<(&str, char)> {
    let comment = line.trim_start();
    let comment = ["//", "#", ";"].iter().find_map(|mark| comment.strip_prefix(mark))?.trim_start();
    let is_word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "_-.".contains(c);
    let end = comment.find(|c| !is_word(c))?;
    let (word, rest) = comment.split_at(end);
    let next = rest.chars().next().filter(|c| ":{".contains(*c))?;
    word.starts_with(|c: char| c.is_ascii_uppercase()).then_some((word, next))
}

fn is_check(word: &str, prefixes: &BTreeSet<String>) -> bool {
    prefixes.iter().any(|prefix| match word.strip_prefix(prefix.as_str()) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('-').is_some_and(is_suffix),
        None => false,
    })
}

fn is_suffix(suffix: &str) -> bool {
    let count = suffix.strip_prefix("COUNT-");
    SUFFIXES.contains(&suffix)
        || count.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Prefixes that the FileCheck calls of the RUN lines look for; `CHECK` where none is given.
fn declared(text: &str) -> BTreeSet<String> {
    let mut script = String::new();
    for line in text.lines() {
        if let Some((_, run)) = line.split_once("RUN:") {
            // A backslash at the end continues the command on the next RUN line.
            match run.trim_end().strip_suffix('\\') {
                Some(start) => script.push_str(start),
                None => script.extend([run, "\n"]),
            }
        }
    }
    let mut prefixes = BTreeSet::new();
    for command in script.split(['|', ';', '&', '\n']) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let call = words.iter().position(|word| matches!(*word, "FileCheck" | "filecheck"));
        let Some(at) = call else { continue };
        let mut given = false;
        let mut words = words[at + 1..].iter();
        while let Some(word) = words.next() {
            let (option, value) = word.split_once('=').unwrap_or((word, ""));
            if !matches!(option.trim_start_matches('-'), "check-prefix" | "check-prefixes") {
                continue;
            }
            let value = if value.is_empty() { words.next().copied().unwrap_or("") } else { value };
            prefixes.extend(value.split(',').map(str::to_owned));
            given = true;
        }
        if !given {
            prefixes.insert("CHECK".to_owned());
        }
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(text: &str) -> Vec<String> {
        check(&[Source { path: "lit-tests/fold/x.qir".into(), text: text.into() }])
    }

    #[test]
    fn known_checks_pass() {
        let text = "// RUN: qcc-opt %s --passes=fold | FileCheck %s\n\
                    // RUN: not qcc-opt %s 2>&1 \\\n\
                    // RUN:   | FileCheck %s --check-prefixes=ERR,NOTE --strict\n\
                    // RUN: qcc-opt %s | FileCheck --check-prefix OUT %s\n\
                    // One sentence: what is tested.\n\
                    // CHECK-LABEL: graph\n// CHECK-NEXT: %[[X:[a-z]+]]\n// CHECK-COUNT-3: Add\n\
                    // ERR-SAME: x\n// NOTE: y\n// OUT-DAG: z\n// REQUIRES: llvm\n";
        assert_eq!(violations(text), [""; 0]);
    }

    #[test]
    fn checks_that_cannot_fail() {
        for line in ["CHECK-NOTE:", "CHECK-COUNT-:", "CHECK-EMPTY:", "ERR:", "CHEK:", "CHECKNEXT:"]
        {
            let text = format!("// RUN: qcc-opt %s | FileCheck %s\n// {line} x\n");
            assert_eq!(
                violations(&text),
                [format!("lit-tests/fold/x.qir:2: no RUN line checks '{line}'")]
            );
        }
        let other = "// RUN: qcc-opt %s | FileCheck %s --check-prefix=A\n// CHECK: x\n";
        assert_eq!(violations(other).len(), 1);
    }

    #[test]
    fn forms_of_one_filecheck_only() {
        let text = "// RUN: qcc-opt %s | FileCheck %s\n// CHECK: [[#N:]]\n// CHECK{LITERAL}: x\n";
        assert_eq!(violations(text).len(), 2);
    }
}
