//! Attributes of operators.

use bytes::Bytes;
use qcc_tensor::DType;

use super::Parser;
use crate::Attr;
use crate::text::error::Fault;
use crate::text::lex::Token;

/// What a list is a list of.
#[derive(Clone, Copy)]
enum Items {
    Ints,
    Floats,
    Strs,
}

impl Parser<'_> {
    /// The value of an attribute that is not a region.
    pub(super) fn attr(&mut self) -> Result<Attr, Fault> {
        match self.token {
            Token::Number(text) if !is_float(text) => self.int().map(Attr::Int),
            Token::Number(_) | Token::Word("nan" | "inf") => self.float().map(Attr::Float),
            Token::Str(_) => Ok(Attr::Str(self.bytes("a string")?.into())),
            Token::Sign("[") => {
                self.next()?;
                let items = match self.token {
                    Token::Number(text) if !is_float(text) => Items::Ints,
                    Token::Number(_) | Token::Word("nan" | "inf") => Items::Floats,
                    Token::Str(_) => Items::Strs,
                    Token::Sign("]") => {
                        let help = "write ints [], floats [] or strs []";
                        return Err(self.fault("what the list holds is open").with_help(help));
                    }
                    _ => return Err(self.unexpected("an integer, a float or a string")),
                };
                self.items(items)
            }
            Token::Word("ints") => self.items_after_word(Items::Ints),
            Token::Word("floats") => self.items_after_word(Items::Floats),
            Token::Word("strs") => self.items_after_word(Items::Strs),
            Token::Word("tensor") => {
                self.next()?;
                self.tensor().map(Attr::Tensor)
            }
            Token::Word("tensors") => {
                self.next()?;
                self.expect("[")?;
                let mut tensors = Vec::new();
                self.list("]", |it| {
                    tensors.push(it.tensor()?);
                    Ok(())
                })?;
                Ok(Attr::Tensors(tensors))
            }
            Token::Word("ref") => {
                self.next()?;
                Ok(Attr::Ref(self.word("the name of an attribute")?))
            }
            Token::Word("raw") => {
                self.next()?;
                Ok(Attr::Raw(self.hex()?.into()))
            }
            _ => Err(self.unexpected("the value of an attribute").with_help(
                "it is a number, a string, a list of one of them, or begins with ints, floats, \
                 strs, tensor, tensors, ref, raw or graph",
            )),
        }
    }

    fn items_after_word(&mut self, items: Items) -> Result<Attr, Fault> {
        self.next()?;
        self.expect("[")?;
        self.items(items)
    }

    /// The items of a list, and `]`.
    fn items(&mut self, items: Items) -> Result<Attr, Fault> {
        let (mut ints, mut floats, mut strs) = (Vec::new(), Vec::new(), Vec::<Bytes>::new());
        self.list("]", |it| {
            match items {
                Items::Ints if matches!(it.token, Token::Number(text) if is_float(text)) => {
                    let message = format!("a list of integers cannot hold {}", it.token);
                    let help = "begin it with floats [ for a list of floats";
                    return Err(it.fault(message).with_help(help));
                }
                Items::Ints => ints.push(it.int()?),
                Items::Floats => floats.push(it.float()?),
                Items::Strs => strs.push(it.bytes("a string")?.into()),
            }
            Ok(())
        })?;
        Ok(match items {
            Items::Ints => Attr::Ints(ints),
            Items::Floats => Attr::Floats(floats),
            Items::Strs => Attr::Strs(strs),
        })
    }

    fn int(&mut self) -> Result<i64, Fault> {
        self.part(DType::I64).map(u64::cast_signed)
    }

    fn float(&mut self) -> Result<f32, Fault> {
        self.part(DType::F32).map(|it| f32::from_bits(it as u32))
    }
}

/// `1` is an integer; `1.0`, `1e5` and `-inf` are floats.
fn is_float(text: &str) -> bool {
    text.contains(['.', 'e', 'E', 'i']) && !text.starts_with("0x")
}
