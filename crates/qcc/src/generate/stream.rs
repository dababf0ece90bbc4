//! Text that comes token by token.
//!
//! A token may be part of a character, and how a token is spelled may depend on the one before it.
//! So each piece is what a few tokens give together beyond what all of them but the last ones gave,
//! and waits until it ends in a whole character (the way of text-generation-inference).

/// What a tokenizer gives for an incomplete character.
const INCOMPLETE: char = '\u{FFFD}';
/// Tokens after which a piece is given out even if it is incomplete: no character is longer.
const MOST: usize = 8;

/// Pieces of text for one token after the other.
#[derive(Debug, Default)]
pub struct TextStream {
    ids: Vec<i64>,
    /// Tokens from here on are decoded with the next ones.
    from: usize,
    /// Tokens before are given out.
    given: usize,
}

impl TextStream {
    /// The text that a token adds; empty while a character is incomplete. `decode` gives the text
    /// of tokens.
    ///
    /// # Errors
    /// Those of `decode`.
    pub fn push<E>(
        &mut self,
        token: i64,
        decode: impl Fn(&[i64]) -> Result<String, E>,
    ) -> Result<String, E> {
        self.ids.push(token);
        self.piece(false, decode)
    }

    /// What is left at the end.
    ///
    /// # Errors
    /// Those of `decode`.
    pub fn finish<E>(&mut self, decode: impl Fn(&[i64]) -> Result<String, E>) -> Result<String, E> {
        self.piece(true, decode)
    }

    fn piece<E>(
        &mut self,
        is_last: bool,
        decode: impl Fn(&[i64]) -> Result<String, E>,
    ) -> Result<String, E> {
        let part = |range: std::ops::Range<usize>| self.ids.get(range).unwrap_or_default();
        let before = decode(part(self.from..self.given))?;
        let all = decode(part(self.from..self.ids.len()))?;
        let is_open = all.ends_with(INCOMPLETE) && self.ids.len() - self.given < MOST;
        let new = match all.strip_prefix(before.as_str()) {
            Some(new) if is_last || !is_open => new.to_owned(),
            // What was there changed by what follows: wait for more.
            None if is_last || self.ids.len() - self.given >= MOST => all,
            _ => return Ok(String::new()),
        };
        (self.from, self.given) = (self.given, self.ids.len());
        Ok(new)
    }
}

/// Words that end a text. What may become one of them is held back.
#[derive(Clone, Debug, Default)]
pub struct StopWords {
    words: Vec<String>,
    held: String,
    is_over: bool,
}

impl StopWords {
    /// Empty words end nothing.
    pub fn new(words: &[String]) -> Self {
        let words = words.iter().filter(|it| !it.is_empty()).cloned().collect();
        Self { words, ..Self::default() }
    }

    /// Whether one of them came.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Ends the text here.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// What of the text so far can be given out besides, when a piece comes: nothing from a word on.
    pub fn push(&mut self, piece: &str) -> String {
        if self.is_over {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some(at) = self.words.iter().filter_map(|it| self.held.find(it.as_str())).min() {
            self.is_over = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let may_start = |at: &usize| {
            let tail = self.held.get(*at..).unwrap_or_default();
            self.words.iter().any(|it| it.starts_with(tail))
        };
        let mut starts = self.held.char_indices().map(|it| it.0);
        let cut = starts.find(may_start).unwrap_or(self.held.len());
        let rest = self.held.split_off(cut);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, at the end.
    pub fn finish(&mut self) -> String {
        if self.is_over { String::new() } else { std::mem::take(&mut self.held) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as tokens.
    fn decode(ids: &[i64]) -> Result<String, String> {
        let bytes: Vec<u8> = ids.iter().map(|&it| it as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn characters_come_whole() {
        let text = "naïve 日本 🦀!";
        let mut stream = TextStream::default();
        let mut pieces = Vec::new();
        for byte in text.bytes() {
            pieces.push(stream.push(i64::from(byte), decode).unwrap());
        }
        assert_eq!(pieces.concat(), text);
        assert!(pieces.contains(&"🦀".to_owned()) && !pieces.concat().contains(INCOMPLETE));
        assert_eq!(stream.finish(decode), Ok(String::new()));
    }

    #[test]
    fn what_is_incomplete_comes_at_the_end() {
        let mut stream = TextStream::default();
        assert_eq!(stream.push(i64::from(b'a'), decode), Ok("a".into()));
        assert_eq!(stream.push(0xF0, decode), Ok(String::new()));
        assert_eq!(stream.finish(decode), Ok("\u{FFFD}".into()));
        let mut stream = TextStream::default();
        let pieces: Vec<String> = (0..20).map(|_| stream.push(0xFF, decode).unwrap()).collect();
        assert!(pieces.iter().any(|it| !it.is_empty()), "nothing is held back for ever");
    }

    #[test]
    fn words_end_a_text() {
        let run = |words: &[&str], pieces: &[&str]| {
            let words: Vec<String> = words.iter().map(|&it| it.to_owned()).collect();
            let mut stop = StopWords::new(&words);
            let mut text: Vec<String> = pieces.iter().map(|it| stop.push(it)).collect();
            text.push(stop.finish());
            (text, stop.is_over())
        };
        let (text, is_over) = run(&["\n\n", "END"], &["a\n", "b", "\n", "\nc", "d"]);
        assert_eq!((text.concat().as_str(), is_over), ("a\nb", true));
        assert_eq!(text[0], "a", "a line end may be the first of two");
        let (text, is_over) = run(&["END", ""], &["EN", "EE", "ND é EN"]);
        assert_eq!((text.concat().as_str(), is_over), ("ENEEND é EN".get(..3).unwrap(), true));
        let (text, is_over) = run(&["END"], &["é E", "N"]);
        assert_eq!((text.concat().as_str(), is_over), ("é EN", false));
    }
}
