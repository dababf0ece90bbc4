//! Functions: operators that a model defines by a graph of others.
//!
//! Source: ONNX, `FunctionProto`. A call is a node whose domain and name are those of a function;
//! its attributes are the arguments of [`Attr::Ref`] in the body. Bodies are no part of the graph
//! that calls them: [`Graph::scopes`] does not list them, and what a pass changes it changes in the
//! graph around the call.

use std::collections::BTreeMap;

use crate::{Attr, Graph};

/// An operator that the model defines.
#[derive(Clone, Debug)]
pub struct Function {
    /// Domain; empty for the default one.
    pub domain: String,
    /// Name, with `:` and the overload behind it where there is one.
    pub name: String,
    /// Attributes that a call may give, with the value of those that it leaves out.
    pub attrs: Vec<(String, Option<Attr>)>,
    /// Versions of the domains for which the body is written.
    pub imports: Vec<(String, i64)>,
    /// Inputs are the operands of a call, of which it may leave some absent; outputs are its
    /// results.
    pub body: Graph,
}

impl Function {
    /// The version of a domain that the body is written for; `None` when it names none.
    pub fn version(&self, domain: &str) -> Option<i64> {
        self.imports.iter().find(|it| it.0 == domain).map(|it| it.1)
    }
}

/// Functions by domain and name.
#[derive(Clone, Debug, Default)]
pub struct Functions(BTreeMap<(String, String), Function>);

impl Functions {
    /// Adds a function; of two with the same domain and name the first stays.
    pub fn add(&mut self, function: Function) {
        let key = (function.domain.clone(), function.name.clone());
        self.0.entry(key).or_insert(function);
    }

    /// The function that a node of this domain and name calls.
    pub fn get(&self, domain: &str, name: &str) -> Option<&Function> {
        self.0.get(&(domain.to_owned(), name.to_owned()))
    }

    /// All of them, by domain and name.
    pub fn iter(&self) -> impl Iterator<Item = &Function> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
