//! The grammar of pipeline text, and how values are quoted.
//!
//! ```text
//! pipeline = [ step { "," step } ]
//! step     = name [ "{" [ option { "," option } ] "}" ]
//! option   = name "=" value
//! value    = bare | "[" [ bare { "," bare } ] "]" | quoted
//! ```
//!
//! Blanks may stand between words. A value is bare, a list in brackets, or quoted. In quotes `\"`, `\\`, `\n`, `\r`, `\t` and
//! `\u{hex}` stand for characters, so that any text fits on one line.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

/// A step as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) column: usize,
    pub(crate) options: Vec<ItemOption>,
}

/// An option as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ItemOption {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) column: usize,
}

/// What does not fit the grammar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SyntaxError {
    /// Of the character that does not fit, counted in characters from 1.
    pub(crate) column: usize,
    pub(crate) what: String,
}

/// The steps of a pipeline text.
pub(crate) fn parse(text: &str) -> Result<Vec<Item>, SyntaxError> {
    let mut reader = Reader { rest: text.chars().peekable(), column: 1 };
    let mut items = Vec::new();
    reader.skip_blanks();
    if reader.rest.peek().is_none() {
        return Ok(items);
    }
    loop {
        items.push(reader.item()?);
        if reader.rest.peek().is_none() {
            return Ok(items);
        }
        reader.want(',', "',' or the end")?;
    }
}

/// Whether a character needs no quotes: all but those that mean something and blanks.
pub(crate) fn is_bare(c: char) -> bool {
    !(c.is_whitespace() || c.is_control() || matches!(c, ',' | '{' | '}' | '[' | ']' | '=' | '"'))
}

/// Text as a value: as it is where that reads back, else in quotes.
pub(crate) fn quoted(text: &str) -> String {
    let is_word = |it: &str| !it.is_empty() && it.chars().all(is_bare);
    let list = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if is_word(text) || list.is_some_and(|it| it.is_empty() || it.split(',').all(is_word)) {
        return text.to_owned();
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    /// Of the next character.
    column: usize,
}

impl Reader<'_> {
    fn item(&mut self) -> Result<Item, SyntaxError> {
        self.skip_blanks();
        let column = self.column;
        let name = self.bare("a pass or recipe")?;
        let mut options = Vec::new();
        self.skip_blanks();
        if self.take('{') && !self.take('}') {
            loop {
                let option = self.option()?;
                if options.iter().any(|it: &ItemOption| it.name == option.name) {
                    let what = format!("option '{}' is given twice", option.name);
                    return Err(SyntaxError { column: option.column, what });
                }
                options.push(option);
                if self.take('}') {
                    break;
                }
                self.want(',', "',' or '}'")?;
            }
        }
        self.skip_blanks();
        Ok(Item { name, column, options })
    }

    fn option(&mut self) -> Result<ItemOption, SyntaxError> {
        self.skip_blanks();
        let column = self.column;
        let name = self.bare("an option")?;
        self.want('=', "'=' and a value")?;
        self.skip_blanks();
        let value = match self.rest.peek() {
            Some('"') => self.quoted()?,
            Some('[') => self.list()?,
            _ => self.bare("a value")?,
        };
        Ok(ItemOption { name, value, column })
    }

    fn list(&mut self) -> Result<String, SyntaxError> {
        let mut out = String::from("[");
        self.take('[');
        if !self.take(']') {
            loop {
                self.skip_blanks();
                out.push_str(&self.bare("a value")?);
                if self.take(']') {
                    break;
                }
                self.want(',', "',' or ']'")?;
                out.push(',');
            }
        }
        out.push(']');
        Ok(out)
    }

    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let start = self.column;
        let mut out = String::new();
        self.next();
        while let Some(c) = self.next() {
            match c {
                '"' => return Ok(out),
                '\\' => out.push(self.escaped()?),
                c => out.push(c),
            }
        }
        Err(SyntaxError { column: start, what: "the quote is not closed".to_owned() })
    }

    /// The character that stands for what follows a backslash.
    fn escaped(&mut self) -> Result<char, SyntaxError> {
        let column = self.column;
        let c = match self.next() {
            Some(c @ ('"' | '\\')) => Some(c),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('u') => self.code_point(),
            _ => None,
        };
        let what = "only \\\", \\\\, \\n, \\r, \\t and \\u{hex} may follow a backslash";
        c.ok_or_else(|| SyntaxError { column, what: what.to_owned() })
    }

    /// `{hex}`, of at most six digits, which are enough for every character.
    fn code_point(&mut self) -> Option<char> {
        if self.next() != Some('{') {
            return None;
        }
        let mut code = None;
        for _ in 0..=6 {
            match self.next()? {
                '}' => return code.and_then(char::from_u32),
                c => code = Some(code.unwrap_or(0) << 4 | c.to_digit(16)?),
            }
        }
        None
    }

    fn bare(&mut self, wanted: &str) -> Result<String, SyntaxError> {
        let mut out = String::new();
        while let Some(&c) = self.rest.peek()
            && is_bare(c)
        {
            out.push(c);
            self.next();
        }
        if out.is_empty() { Err(self.unexpected(wanted)) } else { Ok(out) }
    }

    fn want(&mut self, c: char, wanted: &str) -> Result<(), SyntaxError> {
        if self.take(c) { Ok(()) } else { Err(self.unexpected(wanted)) }
    }

    /// Whether the next character after blanks is `c`, which is then read.
    fn take(&mut self, c: char) -> bool {
        self.skip_blanks();
        let found = self.rest.peek() == Some(&c);
        if found {
            self.next();
        }
        found
    }

    fn skip_blanks(&mut self) {
        while self.rest.peek().is_some_and(|it| it.is_whitespace()) {
            self.next();
        }
    }

    fn next(&mut self) -> Option<char> {
        self.column += 1;
        self.rest.next()
    }

    fn unexpected(&mut self, wanted: &str) -> SyntaxError {
        let what = match self.rest.peek() {
            Some(c) => format!("{wanted} is wanted, not {c:?}"),
            None => format!("{wanted} is wanted, but the text ends"),
        };
        SyntaxError { column: self.column, what }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_and_columns() {
        let items = parse(" a , b-2{ x = 1 ,list=[2, 4],s=\"q \\\"\\u{e9}\\n,}\"} , c{}").unwrap();
        let columns: Vec<(&str, usize)> =
            items.iter().map(|it| (it.name.as_str(), it.column)).collect();
        assert_eq!(columns, [("a", 2), ("b-2", 6), ("c", 52)]);
        let options: Vec<(&str, &str, usize)> =
            items[1].options.iter().map(|it| (&*it.name, &*it.value, it.column)).collect();
        assert_eq!(options, [("x", "1", 11), ("list", "[2,4]", 18), ("s", "q \"é\n,}", 30)]);
    }

    #[test]
    fn what_does_not_fit() {
        let check = |text: &str| {
            let error = parse(text).unwrap_err();
            format!("{}: {}", error.column, error.what)
        };
        assert_eq!(check("a,,b"), "3: a pass or recipe is wanted, not ','");
        assert_eq!(check("a,"), "3: a pass or recipe is wanted, but the text ends");
        assert_eq!(check("a b"), "3: ',' or the end is wanted, not 'b'");
        assert_eq!(check("a{x}"), "4: '=' and a value is wanted, not '}'");
        assert_eq!(check("a{x=}"), "5: a value is wanted, not '}'");
        assert_eq!(check("é{x=1"), "6: ',' or '}' is wanted, but the text ends");
        assert_eq!(check("a{x=[1,}"), "8: a value is wanted, not '}'");
        assert_eq!(check("a{x=\"1}"), "5: the quote is not closed");
        assert_eq!(check("a{x=1,x=2}"), "7: option 'x' is given twice");
        assert!(check("a{x=\"\\q\"}").starts_with("7: only"));
        assert!(check("a{x=\"\\u{}\"}").starts_with("7: only"));
        assert!(check("a{x=\"\\u{d800}\"}").starts_with("7: only"));
        assert!(check("a{x=\"\\u{1234567}\"}").starts_with("7: only"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_quoted(text in any::<String>()) {
            let line = format!("p{{x={}}}", quoted(&text));
            prop_assert!(!line.contains('\n'));
            let items = parse(&line).unwrap();
            prop_assert_eq!(&items[0].options[0].value, &text);
        }

        #[test]
        fn no_text_panics(text in "[a-c{},=\\[\\]\"\\\\ nu1é]{0,20}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.column <= text.chars().count() + 1);
            }
        }
    }
}
