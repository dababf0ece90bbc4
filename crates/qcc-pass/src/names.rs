//! The name that was meant.

/// How alike two names must be, in the measure of Jaro and Winkler, for one to be taken for the
/// other misspelled. With it `rtm` finds `rtn`, and `fold` does not find `gptq`.
const ALIKE: f64 = 0.75;

/// The candidate most like `name`, if one is alike; the first of equals.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    for candidate in candidates {
        let score = strsim::jaro_winkler(name, candidate);
        if score > best.map_or(ALIKE, |it: (f64, &str)| it.0) {
            best = Some((score, candidate));
        }
    }
    best.map(|it| it.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_near() {
        let names = ["select", "rtn", "signround", "to-nbits", "kl-precalibrate"];
        assert_eq!(nearest("rtm", names), Some("rtn"));
        assert_eq!(nearest("to_nbits", names), Some("to-nbits"));
        assert_eq!(nearest("sign-round", names), Some("signround"));
        assert_eq!(nearest("xyz", names), None);
    }
}
