//! The parser: one token ahead, one function for each rule of the grammar.
//!
//! The text may come from anywhere. What is allocated is bounded by the length of the text, and
//! regions may be nested to [`MAX_DEPTH`]; bytes that the text only names are the business of
//! whoever loads them.

mod attr;
mod function;
mod graph;
mod tensor;

use std::sync::Arc;

use bytes::Bytes;
use qcc_tensor::Origin;

use super::error::{Fault, ParseError};
use super::lex::{Lexer, Token};
use crate::{Attrs, Functions, Graph, OpRef};

/// Makes an operator from its domain, name, opset and attributes, or says why not. The opset is
/// the one in the head of the graph, whatever the domain.
pub type MakeOp<'a> = dyn Fn(&str, &str, i64, Attrs) -> Result<OpRef, String> + 'a;

/// Loads bytes that the text names, or says why not. The parser checks their number and hash.
pub type Load<'a> = dyn Fn(&Stored<'_>) -> Result<Bytes, String> + 'a;

/// Bytes that the text names but does not hold. The numbers in it are those of the text and may
/// be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Range of a file; without one there is only the hash to go by.
    pub origin: Option<&'a Origin>,
    /// Number of bytes.
    pub len: usize,
    /// BLAKE3 hash, 64 lower-case hexadecimal digits.
    pub blake3: Option<&'a str>,
}

/// The opset of a graph that names none.
pub const DEFAULT_OPSET: i64 = 28;

/// Levels of regions in regions that are read.
pub const MAX_DEPTH: usize = 32;

/// A [`Load`] that has no bytes: constants must be written out in the text.
///
/// # Errors
/// Always.
pub fn no_bytes(_: &Stored<'_>) -> Result<Bytes, String> {
    Err("there are no files to read them from".to_owned())
}

/// Reads all graphs of a text.
///
/// The graphs have the form that the verifier asks for, except that types are taken as they
/// stand: whether operators agree with them is left to [`verify`](crate::verify).
///
/// # Errors
/// The first place that does not fit.
pub fn parse(text: &str, make_op: &MakeOp<'_>, load: &Load<'_>) -> Result<Vec<Graph>, ParseError> {
    Parser::new(text, make_op, load)
        .and_then(|mut it| it.module())
        .map_err(|fault| ParseError::new(text, fault))
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token that is looked at, and its offset.
    token: Token<'a>,
    at: usize,
    make_op: &'a MakeOp<'a>,
    load: &'a Load<'a>,
    opset: i64,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, make_op: &'a MakeOp<'a>, load: &'a Load<'a>) -> Result<Self, Fault> {
        let mut lexer = Lexer::new(text);
        let (at, token) = lexer.next()?;
        Ok(Self { lexer, token, at, make_op, load, opset: DEFAULT_OPSET, depth: 0 })
    }

    fn module(&mut self) -> Result<Vec<Graph>, Fault> {
        let mut graphs = Vec::new();
        while self.token != Token::End {
            let mut functions = Functions::default();
            while self.accept_word("function")? {
                self.function(&mut functions)?;
            }
            let functions = Arc::new(functions);
            let mut graph = self.graph(None)?.0;
            graph.set_functions(functions);
            graphs.push(graph);
        }
        Ok(graphs)
    }

    /// Goes on to the next token and returns the one that was looked at.
    fn next(&mut self) -> Result<Token<'a>, Fault> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.at, message)
    }

    /// What is wanted is not what is looked at.
    fn unexpected(&self, wanted: &str) -> Fault {
        self.fault(format!("{wanted} is expected, not {}", self.token))
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.token, Token::Sign(it) if it == sign)
    }

    fn accept(&mut self, sign: &str) -> Result<bool, Fault> {
        let found = self.is_sign(sign);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn expect(&mut self, sign: &str) -> Result<(), Fault> {
        if self.accept(sign)? { Ok(()) } else { Err(self.unexpected(&format!("'{sign}'"))) }
    }

    fn accept_word(&mut self, word: &str) -> Result<bool, Fault> {
        let found = self.token == Token::Word(word);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn expect_word(&mut self, word: &str) -> Result<(), Fault> {
        if self.accept_word(word)? { Ok(()) } else { Err(self.unexpected(&format!("'{word}'"))) }
    }

    /// Items with commas between them up to `end`, which is consumed. A comma may follow the last.
    fn list(
        &mut self,
        end: &str,
        mut item: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while !self.accept(end)? {
            item(self)?;
            if !self.accept(",")? {
                if self.accept(end)? {
                    break;
                }
                return Err(self.unexpected(&format!("',' or '{end}'")));
            }
        }
        Ok(())
    }

    /// A word, which may be quoted: an operator, an attribute.
    fn word(&mut self, what: &str) -> Result<String, Fault> {
        match &self.token {
            Token::Word(it) => {
                let word = (*it).to_owned();
                self.next()?;
                Ok(word)
            }
            Token::Str(_) => self.text(what),
            _ => Err(self.unexpected(what)),
        }
    }

    /// A string that is UTF-8.
    fn text(&mut self, what: &str) -> Result<String, Fault> {
        let at = self.at;
        let wrong = |_| Fault::new(at, format!("{what} must be UTF-8"));
        String::from_utf8(self.bytes(what)?).map_err(wrong)
    }

    fn bytes(&mut self, what: &str) -> Result<Vec<u8>, Fault> {
        match self.next_if(|it| matches!(it, Token::Str(_)))? {
            Some(Token::Str(it)) => Ok(it),
            _ => Err(self.unexpected(what)),
        }
    }

    /// A number without sign, such as a dimension or an offset.
    fn count<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, Fault> {
        let Token::Number(text) = self.token else { return Err(self.unexpected(what)) };
        let is_digits = text.bytes().all(|it| it.is_ascii_digit());
        match text.parse() {
            Ok(count) if is_digits => {
                self.next()?;
                Ok(count)
            }
            _ => Err(self.fault(format!("{what} cannot be {text}"))),
        }
    }

    fn next_if(
        &mut self,
        condition: impl FnOnce(&Token<'a>) -> bool,
    ) -> Result<Option<Token<'a>>, Fault> {
        if condition(&self.token) { self.next().map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use qcc_tensor::{DType, Tensor};

    use super::*;
    use crate::text::print;
    use crate::{Kind, Opaque, Value, verify};

    fn make_op(domain: &str, name: &str, _: i64, attrs: Attrs) -> Result<OpRef, String> {
        if name == "Bad" {
            return Err("Bad has no attribute 'x'".to_owned());
        }
        Ok(Arc::new(Opaque { domain: domain.into(), name: name.into(), attrs }))
    }

    fn read(text: &str) -> Result<Vec<Graph>, ParseError> {
        parse(text, &make_op, &no_bytes)
    }

    #[test]
    fn text_written_by_hand() {
        let text = r#"
            // Comments and line ends may stand anywhere.
            graph @main opset 17 (%x:?, %ids: i64[?,] = default i64[1] [7],) -> (%y: f32[2], %y) {
              %w: f32[2] = const f32[2] [ 1, -0.5, ]
              %h = const f16[1] bytes "003C"
              %a, _ = Split(%x, _, %w) // no attributes
                {axis = 1, scale = -inf, none = ints [], some = floats [1, 2.5]} @"a node"
              () = my.domain::Print(%a)
              %y = "if"(%a) {
                body = graph @body captures(%w, %z = %a) (%i: i64[]) -> (%r) { %r = Add(%w, %z) },
              }
            }
            graph @second() -> () {}"#;
        let graphs = read(text).unwrap();
        assert_eq!(graphs.iter().flat_map(verify).collect::<Vec<_>>(), []);
        let text: String = graphs.iter().map(print).collect();
        insta::assert_snapshot!(text, @r#"
        graph @main(%x, %ids: i64[?] = default i64[1] [7]) -> (%y: f32[2], %y: f32[2]) {
          %w = const f32[2] [1.0, -0.5]
          %h = const f16[1] [1.0]
          %a, _ = Split(%x, _, %w) {axis = 1, scale = -inf, none = ints [], some = [1.0, 2.5]} @"a node"
          () = my.domain::Print(%a)
          %y = if(%a) {
            body = graph @body captures(%w, %z = %a) (%i: i64[]) -> (%r) {
              %r = Add(%w, %z)
            }
          }
        }
        graph @second() -> () {
        }
        "#);
    }

    #[test]
    fn mistakes() {
        let mut text = String::new();
        for mistake in [
            "grph @g() -> () {}",
            "graph g() -> () {}",
            "graph @g(%x) -> (%y) {}",
            "graph @g(%x) -> () { %y = Add(%x, %z) }",
            "graph @g(%x) -> () { %y = Add(%y) }",
            "graph @g(%x) -> () { %a = Add(%b) %b = Add(%a) }",
            "graph @g(%x) -> () { %x = Add(%x) }",
            "graph @g(%x, %x) -> () {}",
            "graph @g(%x: f32[2]) -> (%x: f32[3]) {}",
            "graph @g() -> (%y: f32[2]) { %y: f16[2] = Add() }",
            "graph @g() -> (%y: f32[2]) { %y = const f32[1] [0.0] }",
            "graph @g() -> () { %a, %b = const f32[1] [0.0] }",
            "graph @g() -> () { %a = const f32[2] [0.0] }",
            "graph @g() -> () { %a = const f32[1] [0.0, 1.0] }",
            "graph @g() -> () { %a = const f32[n] [0.0] }",
            "graph @g() -> () { %a = const u8[1] [256] }",
            "graph @g() -> () { %a = const i64[1] [1.5] }",
            "graph @g() -> () { %a = const float[1] [1.5] }",
            "graph @g() -> () { %a = const u8[99999999999, 99999999999] [0] }",
            "graph @g() -> () { %a = const u8[2] bytes \"00\" }",
            "graph @g() -> () { %a = const u8[2] bytes \"0\" }",
            "graph @g() -> () { %a = const u8[2] file \"f\" offset 0 length 3 }",
            "graph @g() -> () { %a = const u8[2] file \"f\" offset 0 length 2 }",
            "graph @g() -> () { %a = const u8[2] hash \"00\" }",
            "graph @g() -> () { %a = Bad() }",
            "graph @g() -> () { %a = Add() {x = []} }",
            "graph @g() -> () { %a = Add() {x = [1, 1.5]} }",
            "graph @g() -> () { %a = Add() {x = 1, x = 2} }",
            "graph @g() -> () { %a = Add() {x = one} }",
            "graph @g() -> () { %a = Add() {x = 9223372036854775808} }",
            "graph @g() -> () { %a = If() {x = graph @x() -> (%a) { %a = Add(%b) }} }",
            "graph @g(%w) -> () { %a = If() {x = graph @x() -> () { %a = Add(%w) }} }",
            "graph @g(%w) -> () { %a = If() {x = graph @x captures(%v) () -> () {}} }",
            "graph @g captures(%v) () -> () {}",
            "graph @g(%<n1.0>) -> () {}",
            "graph @g(%x y) -> () {}",
            "graph @g() -> () { = Add() }",
            "graph @g() -> () {",
            "graph @g() -> () { %a = Add(\"a\nb\") }",
        ] {
            let error = read(mistake).unwrap_err();
            let help = error.help.map(|it| format!(" ({it})")).unwrap_or_default();
            text += &format!("{}:{}: {}{help}\n", error.line, error.column, error.message);
        }
        insta::assert_snapshot!(text, @r#"
        1:1: 'graph' is expected, not 'grph'
        1:7: the name of the graph is expected, not 'g' (such as @main)
        1:18: the output '%y' is not defined
        1:35: '%z' is not defined above (a value is defined before it is read, in the same graph)
        1:31: '%y' is not defined above (a value is defined before it is read, in the same graph)
        1:31: '%b' is not defined above (a value is defined before it is read, in the same graph)
        1:22: '%x' is defined twice
        1:14: '%x' is defined twice
        1:26: '%x' is both f32[3] and f32[2]
        1:30: '%y' is both f16[2] and f32[2]
        1:30: '%y' is both f32[1] and f32[2]
        1:35: a constant is one value
        1:39: f32[2] has 2 elements, but 1 follow
        1:44: f32[1] has 1 elements, but more follow
        1:31: a tensor cannot be f32[n] (write its dimensions as numbers)
        1:38: '256' does not fit into u8, which ends at 0 and 255
        1:39: '1.5' is not an integer
        1:31: 'float' is no element type (the element types are f32, u8, i8, u16, i16, i32, i64, str, bool, f16, f64, u32, u64, c64, c128, bf16, f8e4m3fn, f8e4m3fnuz, f8e5m2, f8e5m2fnuz, u4, i4, f4e2m1, f8e8m0, u2, i2, f6e2m3, f6e3m2 and any)
        1:31: u8[99999999999, 99999999999] overflows
        1:43: u8[2] has 2 bytes, but 1 follow
        1:43: this is not an even number of hexadecimal digits
        1:62: u8[2] has 2 bytes, not 3
        1:37: the bytes of 'f' from 0 on cannot be loaded: there are no files to read them from
        1:42: a hash has 64 hexadecimal digits
        1:25: Bad has no attribute 'x'
        1:37: what the list holds is open (write ints [], floats [] or strs [])
        1:40: a list of integers cannot hold '1.5' (begin it with floats [ for a list of floats)
        1:39: the attribute 'x' is given twice
        1:36: the value of an attribute is expected, not 'one' (it is a number, a string, a list of one of them, or begins with ints, floats, strs, tensor, tensors, ref, raw or graph)
        1:36: '9223372036854775808' does not fit into i64, which ends at -9223372036854775808 and 9223372036854775807
        1:65: '%b' is not defined above (a value is defined before it is read, in the same graph)
        1:65: '%w' is not defined above (a region reads values from outside as captures: list %w in captures(..))
        1:55: '%v' is not defined in the graph around this one
        1:10: only a graph inside a node captures values
        1:10: this value cannot be read back (the printer writes this for a value that has no name or does not exist: the graph was wrong before it was printed)
        1:13: ',' or ')' is expected, not 'y'
        1:22: a value is expected before '='
        1:19: a value such as %x is expected, not the end of the text
        1:29: the string does not end on its line
        "#);
    }

    #[test]
    fn bytes_are_loaded_and_checked() {
        let content = Bytes::from(vec![7u8; 100]);
        let hash = blake3::hash(&content).to_string();
        let head = "graph @g() -> () { %a = const u8[100]";
        let load = |_: &Stored<'_>| Ok(content.clone());
        for place in [
            format!("file \"m.onnx\" offset 12 length 100 blake3 \"{hash}\""),
            "file \"m.onnx\" offset 12 length 100".to_owned(),
            format!("hash \"{hash}\""),
        ] {
            let text = format!("{head} {place} }}");
            let graph = parse(&text, &make_op, &load).unwrap().remove(0);
            let (id, node) = graph.nodes().next().unwrap();
            assert!(matches!(&node.kind, Kind::Const(it) if *it.bytes() == content));
            let origin = graph.constant(Value { node: id, slot: 0 }).unwrap().origin();
            assert_eq!(origin.map(|it| it.offset), place.starts_with("file").then_some(12));
            // Other bytes, and fewer of them.
            let error = parse(&text, &make_op, &|_| Ok(vec![8u8; 100].into()));
            assert_eq!(error.is_err(), place.contains(&hash));
            assert!(parse(&text, &make_op, &|_| Ok(content.slice(1..))).is_err());
        }
    }

    #[test]
    fn operators_are_made_for_the_opset() {
        let seen = Mutex::new(Vec::new());
        let make = |domain: &str, name: &str, opset: i64, attrs: Attrs| {
            seen.lock().unwrap().push(opset);
            make_op(domain, name, opset, attrs)
        };
        let text = "graph @a opset 17 () -> () {
                      () = If() {b = graph @b() -> () { () = A() }}
                    }
                    graph @c() -> () { () = A() }";
        parse(text, &make, &no_bytes).unwrap();
        assert_eq!(*seen.lock().unwrap(), [17, 17, DEFAULT_OPSET]);
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| {
            let (open, close) = ("graph @g() -> () { () = If() {b = ", "} }");
            open.repeat(depth) + "graph @g() -> () {}" + &close.repeat(depth)
        };
        assert!(read(&nested(MAX_DEPTH)).is_ok());
        let error = read(&nested(100_000)).unwrap_err();
        assert_eq!(error.message, "regions are nested deeper than 32");
        assert!(read(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn huge_shapes_cost_nothing() {
        let text = "graph @g(%x: f32[18446744073709551615]) -> () { %a = const u8[1000000000000] [";
        assert!(read(text).is_err());
        let text = "graph @g() -> () { %a = const u8[1000000000000] bytes \"00\" }";
        assert!(read(text).is_err());
        let graph = read("graph @g() -> () { %a = const u8[0, 9999999999999] [] }").unwrap();
        assert_eq!(graph[0].len(), 1);
    }

    #[test]
    fn bits_of_floats_survive() {
        let text =
            "graph @g() -> () { %a = const f32[5] [nan, nan(0x7f800001), -inf, -0.0, 1e-45] }";
        let graph = read(text).unwrap().remove(0);
        let (id, _) = graph.nodes().next().unwrap();
        let tensor = graph.constant(Value { node: id, slot: 0 }).unwrap();
        let bits = [0x7fc0_0000, 0x7f80_0001, 0xff80_0000, 0x8000_0000, 1u32];
        let bytes: Vec<u8> = bits.iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(*tensor, Tensor::new(DType::F32, vec![5], bytes.into()).unwrap());
        assert!(print(&graph).contains("[nan, nan(0x7f800001), -inf, -0.0, 1e-45]"));
    }
}
