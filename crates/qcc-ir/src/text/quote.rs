//! Names and byte strings of the text form: what needs quotes, and how quoting is done.
//!
//! A byte string is UTF-8 in quotes. The escapes are `\"`, `\\`, `\n`, `\r`, `\t` and `\xNN`, which
//! is one byte; bytes that are not UTF-8 and characters that cannot be seen are written so.

use std::fmt::{self, Display};

/// A word: a letter or `_`, then letters, digits, `_` and `.`.
pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
        && text.bytes().all(is_word_byte)
}

pub(super) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')
}

/// Length of the name that `text` begins with: letters, digits and `_ . / : -` as far as they go
/// before `//`, without `:` and `-` at the end, so that `%x: f32` and `%x->` read as expected.
pub(super) fn plain_name_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let end = bytes
        .iter()
        .enumerate()
        .position(|(idx, &byte)| {
            let is_comment = byte == b'/' && bytes.get(idx + 1) == Some(&b'/');
            is_comment || !(is_word_byte(byte) || matches!(byte, b'/' | b':' | b'-'))
        })
        .unwrap_or(bytes.len());
    let name = bytes.get(..end).unwrap_or_default();
    name.iter().rposition(|it| !matches!(it, b':' | b'-')).map_or(0, |last| last + 1)
}

/// A word, in quotes if it is not a plain one: symbols of dimensions, operators, attributes.
pub(crate) struct Word<'a>(pub(crate) &'a str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_word(self.0) { f.write_str(self.0) } else { Quoted(self.0.as_bytes()).fmt(f) }
    }
}

/// A name after its `%` or `@`, in quotes if it is not a plain one.
pub(super) struct Name<'a>(pub(super) char, pub(super) &'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        if !self.1.is_empty() && plain_name_len(self.1) == self.1.len() {
            f.write_str(self.1)
        } else {
            Quoted(self.1.as_bytes()).fmt(f)
        }
    }
}

/// A byte string in quotes.
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '"' => f.write_str("\\\"")?,
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    // The standard library escapes with a number what cannot be seen.
                    it if it.escape_debug().len() > 2 || it == '\0' => {
                        escape(f, it.encode_utf8(&mut [0; 4]).as_bytes())?;
                    }
                    it => write!(f, "{it}")?,
                }
            }
            escape(f, chunk.invalid())?;
        }
        f.write_str("\"")
    }
}

fn escape(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|it| write!(f, "\\x{it:02x}"))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let mut text = String::new();
        for chunk in self.0.chunks(4096) {
            text.clear();
            for &byte in chunk {
                text.push(DIGITS[usize::from(byte >> 4)]);
                text.push(DIGITS[usize::from(byte & 15)]);
            }
            f.write_str(&text)?;
        }
        Ok(())
    }
}

/// The bytes of hexadecimal digits; `None` when they are none, or an odd number.
pub(super) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |it: u8| char::from(it).to_digit(16);
    let (pairs, rest) = text.as_chunks::<2>();
    let byte = |&[high, low]: &[u8; 2]| u8::try_from(digit(high)? * 16 + digit(low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_no_quotes() {
        for (name, text) in [
            ("x", "%x"),
            ("/model/layers.0/MatMul_output_0", "%/model/layers.0/MatMul_output_0"),
            ("onnx::MatMul_12", "%onnx::MatMul_12"),
            ("dense/kernel:0", "%dense/kernel:0"),
            ("123", "%123"),
            ("x:", "%\"x:\""),
            ("x-", "%\"x-\""),
            ("a//b", "%\"a//b\""),
            ("a b", "%\"a b\""),
            ("", "%\"\""),
            ("größe", "%\"größe\""),
        ] {
            assert_eq!(Name('%', name).to_string(), text);
        }
        assert_eq!(Word("com.microsoft").to_string(), "com.microsoft");
        assert_eq!(Word("2d").to_string(), "\"2d\"");
        assert_eq!(Word("a-b").to_string(), "\"a-b\"");
    }

    #[test]
    fn escapes() {
        let text = Quoted(b"a\"\\\n\r\t\x00\x7f\xff\xc3\xa4").to_string();
        assert_eq!(text, r#""a\"\\\n\r\t\x00\x7f\xffä""#);
        assert_eq!(Quoted("\u{202e}".as_bytes()).to_string(), r#""\xe2\x80\xae""#);
    }

    #[test]
    fn hex() {
        assert_eq!(Hex(&[0x00, 0xaf]).to_string(), "00af");
        assert_eq!(from_hex(b"00aF"), Some(vec![0x00, 0xaf]));
        assert_eq!(from_hex(b"00a"), None);
        assert_eq!(from_hex(b"0g"), None);
    }
}
