//! Tokens of the text form.

use std::fmt;

use super::error::Fault;
use super::quote::{Quoted, is_word_byte, plain_name_len};

/// The smallest part of the text that means something.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A keyword, operator, element type, attribute or symbol.
    Word(&'a str),
    /// `%x`: a value.
    Value(String),
    /// `@x`: a graph or a node.
    At(String),
    /// A byte string, without quotes and escapes.
    Str(Vec<u8>),
    /// Digits, with a sign before and more than digits inside: `-1`, `1.5e-3`, `-inf`, `0x3c`.
    Number(&'a str),
    /// `( ) [ ] { } < > , = ? * : :: ->`
    Sign(&'static str),
    /// Nothing is left.
    End,
}

/// As messages name it.
impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(it) | Self::Number(it) | Self::Sign(it) => write!(f, "'{it}'"),
            Self::Value(it) => write!(f, "'%{it}'"),
            Self::At(it) => write!(f, "'@{it}'"),
            Self::Str(it) if it.len() > 40 => f.write_str("a string"),
            Self::Str(it) => write!(f, "the string {}", Quoted(it)),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// The longer of two signs that begin alike comes first.
const SIGNS: &[&str] =
    &["->", "::", "(", ")", "[", "]", "{", "}", "<", ">", ",", "=", "?", "*", ":"];

/// Cuts a text into tokens.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next token and its offset. At the end that is [`Token::End`], as often as asked.
    ///
    /// # Errors
    /// For characters that begin no token, and for strings that do not end or are not right.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), Fault> {
        self.skip_space();
        let (at, rest) = (self.at, self.rest());
        let Some(first) = rest.bytes().next() else { return Ok((at, Token::End)) };
        let token = match first {
            b'%' => Token::Value(self.name()?),
            b'@' => Token::At(self.name()?),
            b'"' => Token::Str(self.string()?),
            it if it.is_ascii_alphabetic() || it == b'_' => {
                let len = rest.bytes().position(|it| !is_word_byte(it)).unwrap_or(rest.len());
                Token::Word(self.take(len))
            }
            it if it.is_ascii_digit() || number_len(rest) > 1 => {
                Token::Number(self.take(number_len(rest)))
            }
            _ => match SIGNS.iter().find(|it| rest.starts_with(**it)) {
                Some(sign) => {
                    self.take(sign.len());
                    Token::Sign(sign)
                }
                None => {
                    let char = rest.chars().next().unwrap_or_default();
                    return Err(Fault::new(at, format!("{char:?} has no meaning here")));
                }
            },
        };
        Ok((at, token))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, len: usize) -> &'a str {
        let taken = self.rest().get(..len).unwrap_or_default();
        self.at += taken.len();
        taken
    }

    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_ascii_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// What follows `%` or `@`.
    fn name(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let sigil = self.take(1);
        let rest = self.rest();
        if rest.starts_with('"') {
            let name = self.string()?;
            let wrong = |_| Fault::new(start, "a name must be UTF-8");
            return String::from_utf8(name).map_err(wrong);
        }
        match plain_name_len(rest) {
            0 if rest.starts_with('<') => {
                let help = "the printer writes this for a value that has no name or does not \
                            exist: the graph was wrong before it was printed";
                Err(Fault::new(start, "this value cannot be read back").with_help(help))
            }
            0 => Err(Fault::new(start, format!("a name must follow '{sigil}'"))
                .with_help(format!("names that are not plain are quoted: {sigil}\"a name\""))),
            len => Ok(self.take(len).to_owned()),
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, Fault> {
        let start = self.at;
        self.take(1);
        let mut bytes = Vec::new();
        loop {
            let rest = self.rest();
            let plain = rest.find(['"', '\\', '\n']).unwrap_or(rest.len());
            bytes.extend_from_slice(self.take(plain).as_bytes());
            match self.rest().bytes().next() {
                Some(b'"') => {
                    self.take(1);
                    return Ok(bytes);
                }
                Some(b'\\') => bytes.push(self.escape()?),
                _ => return Err(Fault::new(start, "the string does not end on its line")),
            }
        }
    }

    fn escape(&mut self) -> Result<u8, Fault> {
        let start = self.at;
        let rest = self.rest();
        let (byte, len) = match rest.as_bytes().get(1) {
            Some(b'"') => (Some(b'"'), 2),
            Some(b'\\') => (Some(b'\\'), 2),
            Some(b'n') => (Some(b'\n'), 2),
            Some(b'r') => (Some(b'\r'), 2),
            Some(b't') => (Some(b'\t'), 2),
            Some(b'x') => {
                let digits = rest.get(2..4).filter(|it| !it.starts_with('+'));
                (digits.and_then(|it| u8::from_str_radix(it, 16).ok()), 4)
            }
            _ => (None, 0),
        };
        let Some(byte) = byte else {
            let help = r#"the escapes are \" \\ \n \r \t and \xNN"#;
            return Err(Fault::new(start, "unknown escape in a string").with_help(help));
        };
        self.take(len);
        Ok(byte)
    }
}

/// Length of the number that `text` begins with; at most 1 when there is none.
fn number_len(text: &str) -> usize {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_hex = digits.starts_with("0x");
    let mut before = 0;
    let len = digits.bytes().position(|it| {
        let is_exponent_sign =
            !is_hex && matches!(before, b'e' | b'E') && matches!(it, b'+' | b'-');
        before = it;
        !(is_word_byte(it) || is_exponent_sign)
    });
    (text.len() - digits.len()) + len.unwrap_or(digits.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text);
        std::iter::from_fn(|| Some(lexer.next().unwrap().1).filter(|it| *it != Token::End))
            .collect()
    }

    #[test]
    fn kinds() {
        let text = "%x:f %\"a b\": @g(-1, 1e-5,-inf 0x3e) // no\n->::a.b_ \"\\x41\\n\"";
        assert_eq!(
            tokens(text),
            [
                Token::Value("x:f".into()),
                Token::Value("a b".into()),
                Token::Sign(":"),
                Token::At("g".into()),
                Token::Sign("("),
                Token::Number("-1"),
                Token::Sign(","),
                Token::Number("1e-5"),
                Token::Sign(","),
                Token::Number("-inf"),
                Token::Number("0x3e"),
            ]
            .into_iter()
            .chain(tokens(") ->::a.b_ \"A\\n\""))
            .collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_is_no_token() {
        for (text, at) in [
            ("x ;", 2),
            ("ä", 0),
            ("-", 0),
            ("% ", 0),
            ("%<n3.0>", 0),
            ("%\"\\xff\"", 0),
            ("\"abc", 0),
            ("\"a\nb\"", 0),
            ("\"a\\q\"", 2),
            ("\"\\x+1\"", 1),
            ("\"\\xä\"", 1),
            ("\"\\", 1),
        ] {
            let mut lexer = Lexer::new(text);
            let fault = loop {
                match lexer.next() {
                    Ok((_, Token::End)) => panic!("{text:?} was read"),
                    Ok(_) => {}
                    Err(fault) => break fault,
                }
            };
            assert_eq!(fault.at, at, "{text:?}");
        }
    }
}
