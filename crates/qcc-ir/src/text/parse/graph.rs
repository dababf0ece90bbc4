//! Graphs, their heads and statements.

use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_DEPTH, Parser};
use crate::text::error::Fault;
use crate::text::lex::Token;
use crate::{Attrs, Graph, GraphBuilder, Output, Region, Type, Value};

/// Values of a graph by name, as far as they are defined.
type Names = BTreeMap<String, Value>;

/// A name where it is defined or listed.
struct Typed {
    at: usize,
    name: String,
    ty: Type,
}

/// A graph that is being read.
struct Draft<'o> {
    builder: GraphBuilder,
    names: Names,
    /// Types that the head gives to outputs of the graph.
    promised: BTreeMap<String, Type>,
    /// Values of the graph around a region.
    outer: Option<&'o Names>,
}

impl Draft<'_> {
    /// The type of a value from where it is defined and from the head.
    fn ty(&self, value: &Typed) -> Result<Type, Fault> {
        match self.promised.get(&value.name) {
            Some(promised) => merge(value.at, &value.name, &value.ty, promised),
            None => Ok(value.ty.clone()),
        }
    }

    fn define(&mut self, at: usize, name: &str, value: Value) -> Result<(), Fault> {
        // Nothing can read a value without a name, so there may be many.
        if !name.is_empty() && self.names.insert(name.to_owned(), value).is_some() {
            return Err(Fault::new(at, format!("'%{name}' is defined twice")));
        }
        Ok(())
    }

    fn lookup(&self, at: usize, name: &str) -> Result<Value, Fault> {
        if let Some(&value) = self.names.get(name) {
            return Ok(value);
        }
        let fault = Fault::new(at, format!("'%{name}' is not defined above"));
        Err(match self.outer {
            Some(outer) if outer.contains_key(name) => fault.with_help(format!(
                "a region reads values from outside as captures: list %{name} in captures(..)"
            )),
            _ => fault.with_help("a value is defined before it is read, in the same graph"),
        })
    }
}

impl Parser<'_> {
    /// A graph, and for each of its captures the value around it.
    pub(super) fn graph(&mut self, outer: Option<&Names>) -> Result<(Graph, Vec<Value>), Fault> {
        self.expect_word("graph")?;
        let Token::At(name) = &self.token else {
            return Err(self.unexpected("the name of the graph").with_help("such as @main"));
        };
        let builder = GraphBuilder::new(name);
        self.next()?;
        let promised = BTreeMap::new();
        let mut draft = Draft { builder, names: Names::new(), promised, outer };

        if outer.is_none() {
            let has_opset = self.accept_word("opset")?;
            self.opset = if has_opset { self.count("an opset")? } else { super::DEFAULT_OPSET };
        }
        let mut captures = Vec::new();
        if self.token == Token::Word("captures") {
            if outer.is_none() {
                return Err(self.fault("only a graph inside a node captures values"));
            }
            self.next()?;
            self.expect("(")?;
            self.list(")", |it| {
                captures.push(it.capture(&mut draft)?);
                Ok(())
            })?;
        }
        self.expect("(")?;
        self.list(")", |it| it.input(&mut draft))?;
        self.expect("->")?;
        self.expect("(")?;
        let mut outputs = Vec::new();
        self.list(")", |it| {
            outputs.push(it.output(&mut draft)?);
            Ok(())
        })?;
        self.expect("{")?;
        while !self.accept("}")? {
            self.statement(&mut draft)?;
        }

        let values = outputs.iter().map(|(at, name)| match draft.names.get(name) {
            Some(&value) => Ok(value),
            None => Err(Fault::new(*at, format!("the output '%{name}' is not defined"))),
        });
        let values = values.collect::<Result<Vec<_>, _>>()?;
        draft.builder.set_outputs(values);
        let cycle = |_| self.fault("the graph has a cycle");
        Ok((draft.builder.finish().map_err(cycle)?, captures))
    }

    /// `%inner: f32[2] = %outer`, or `%w: f32[2]`. Returns the outer value.
    fn capture(&mut self, draft: &mut Draft<'_>) -> Result<Value, Fault> {
        let inner = self.typed()?;
        let (mut at, mut name) = (inner.at, inner.name.clone());
        if self.accept("=")? {
            at = self.at;
            name = self.value()?;
        }
        let Some(&outer) = draft.outer.and_then(|it| it.get(&name)) else {
            let message = format!("'%{name}' is not defined in the graph around this one");
            return Err(Fault::new(at, message));
        };
        let value = draft.builder.capture(&inner.name, inner.ty);
        draft.define(inner.at, &inner.name, value)?;
        Ok(outer)
    }

    /// `%x: f32[batch]`, or `%x: f32[batch] = default f32[1] [0.0]`.
    fn input(&mut self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let input = self.typed()?;
        let default = if self.accept("=")? {
            self.expect_word("default")?;
            Some(self.tensor()?)
        } else {
            None
        };
        let value = draft.builder.input(&input.name, input.ty, default);
        draft.define(input.at, &input.name, value)
    }

    /// An output in the head, with its type. Inputs and captures are known by then.
    fn output(&mut self, draft: &mut Draft<'_>) -> Result<(usize, String), Fault> {
        let Typed { at, name, ty } = self.typed()?;
        if let Some(&value) = draft.names.get(&name) {
            let ty = merge(at, &name, &ty, draft.builder.graph().ty(value))?;
            draft.builder.set_type(value, ty);
        } else {
            let before = draft.promised.get(&name).unwrap_or(&Type::Unknown);
            let ty = merge(at, &name, &ty, before)?;
            draft.promised.insert(name.clone(), ty);
        }
        Ok((at, name))
    }

    fn statement(&mut self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let results = self.results()?;
        if self.accept_word("const")? {
            return self.constant(draft, results);
        }
        let at = self.at;
        let mut domain = String::new();
        let mut name = self.word("an operator or 'const'")?;
        if self.accept("::")? {
            domain = std::mem::replace(&mut name, self.word("an operator")?);
        }
        self.expect("(")?;
        let mut operands = Vec::new();
        self.list(")", |it| {
            let at = it.at;
            let is_absent = it.accept_word("_")?;
            operands.push(if is_absent { None } else { Some(draft.lookup(at, &it.value()?)?) });
            Ok(())
        })?;
        let (mut attrs, mut regions, mut taken) = (Attrs::new(), Vec::new(), BTreeSet::new());
        if self.accept("{")? {
            self.list("}", |it| {
                let (at, name) = (it.at, it.word("the name of an attribute")?);
                if !taken.insert(name.clone()) {
                    return Err(Fault::new(at, format!("the attribute '{name}' is given twice")));
                }
                it.expect("=")?;
                if it.token == Token::Word("graph") {
                    regions.push(it.region(draft, name)?);
                } else {
                    attrs.push((name, it.attr()?));
                }
                Ok(())
            })?;
        }
        let node_name = match self.next_if(|it| matches!(it, Token::At(_)))? {
            Some(Token::At(it)) => it,
            _ => String::new(),
        };
        let op =
            (self.make_op)(&domain, &name, self.opset, attrs).map_err(|it| Fault::new(at, it))?;

        let output = |it: &Typed| Ok(Output::new(&*it.name, draft.ty(it)?));
        let outputs = results.iter().map(output).collect::<Result<Vec<_>, Fault>>()?;
        let node = draft.builder.op(&node_name, op, operands, outputs);
        if !regions.is_empty() {
            draft.builder.set_regions(node, regions);
        }
        for (slot, result) in (0..).zip(&results) {
            draft.define(result.at, &result.name, Value { node, slot })?;
        }
        Ok(())
    }

    /// `%a: f32[2], _ =`, or `() =` for no outputs.
    fn results(&mut self) -> Result<Vec<Typed>, Fault> {
        let mut results = Vec::new();
        if self.accept("(")? {
            self.expect(")")?;
            self.expect("=")?;
            return Ok(results);
        }
        self.list("=", |it| {
            results.push(it.typed()?);
            Ok(())
        })?;
        if results.is_empty() {
            return Err(self.fault("a value is expected before '='"));
        }
        Ok(results)
    }

    fn constant(&mut self, draft: &mut Draft<'_>, results: Vec<Typed>) -> Result<(), Fault> {
        let Ok([result]) = <[Typed; 1]>::try_from(results) else {
            return Err(self.fault("a constant is one value"));
        };
        let tensor = self.tensor()?;
        let stated = draft.ty(&result)?;
        merge(result.at, &result.name, &Type::of(&tensor), &stated)?;
        let value = draft.builder.constant(&result.name, tensor);
        draft.define(result.at, &result.name, value)
    }

    fn region(&mut self, draft: &Draft<'_>, attr: String) -> Result<Region, Fault> {
        if self.depth == MAX_DEPTH {
            return Err(self.fault(format!("regions are nested deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        let (graph, captures) = self.graph(Some(&draft.names))?;
        self.depth -= 1;
        Ok(Region { attr, graph, captures })
    }

    /// A value where it is defined or listed; `_` has no name.
    fn typed(&mut self) -> Result<Typed, Fault> {
        let at = self.at;
        let name = if self.accept_word("_")? { String::new() } else { self.value()? };
        let ty = if self.accept(":")? { self.ty()? } else { Type::Unknown };
        Ok(Typed { at, name, ty })
    }

    fn value(&mut self) -> Result<String, Fault> {
        match self.next_if(|it| matches!(it, Token::Value(_)))? {
            Some(Token::Value(name)) => Ok(name),
            _ => Err(self.unexpected("a value such as %x")),
        }
    }
}

/// A type that is stated in two places.
fn merge(at: usize, name: &str, a: &Type, b: &Type) -> Result<Type, Fault> {
    match (a, b) {
        (Type::Unknown, it) | (it, Type::Unknown) => Ok(it.clone()),
        _ if a == b => Ok(a.clone()),
        _ => Err(Fault::new(at, format!("'%{name}' is both {a} and {b}"))),
    }
}
