//! Functions, which stand before the graph that calls them.

use super::Parser;
use crate::text::error::Fault;
use crate::{Function, Functions};

impl Parser<'_> {
    /// What follows `function`: `my::f {alpha, beta = 2.0} imports {"" = 17} graph @f(..) ..`.
    pub(super) fn function(&mut self, functions: &mut Functions) -> Result<(), Fault> {
        let at = self.at;
        let mut domain = String::new();
        let mut name = self.word("the name of the function")?;
        if self.accept("::")? {
            domain = std::mem::replace(&mut name, self.word("the name of the function")?);
        }
        let (mut attrs, mut imports) = (Vec::new(), Vec::new());
        if self.accept("{")? {
            self.list("}", |it| {
                let name = it.word("the name of an attribute")?;
                let default = if it.accept("=")? { Some(it.attr()?) } else { None };
                attrs.push((name, default));
                Ok(())
            })?;
        }
        if self.accept_word("imports")? {
            self.expect("{")?;
            self.list("}", |it| {
                let domain = it.text("a domain")?;
                it.expect("=")?;
                imports.push((domain, it.count("a version")?));
                Ok(())
            })?;
        }
        let (body, _) = self.graph(None)?;
        if functions.get(&domain, &name).is_some() {
            return Err(Fault::new(at, format!("the function '{name}' is defined twice")));
        }
        functions.add(Function { domain, name, attrs, imports, body });
        Ok(())
    }
}
