//! The graph, its types, text form, verifier and patches.
//!
//! A [`Graph`] holds nodes with ordered operands on a petgraph; a [`Value`] is one output of a
//! node and owns its name and [`Type`]. Passes read a graph and return a [`Patch`]; applying it
//! is the only way to change a graph that exists. Which operators exist is not known here: a node
//! carries an [`Op`] behind a trait.

mod apply;
mod attr;
mod builder;
mod compare;
mod emit;
mod function;
mod graph;
mod names;
mod node;
mod op;
mod order;
mod patch;
mod scope;
pub mod text;
mod types;
mod verify;

pub use attr::{Attr, Attrs};
pub use builder::GraphBuilder;
pub use emit::{Adjoints, Emitter, Io, NotDifferentiable};
pub use function::{Function, Functions};
pub use graph::Graph;
pub use node::{Kind, Node, NodeId, Output, Place, Region, Value};
pub use op::{EvalCx, EvalError, Input, Op, OpRef, Opaque, TypeError};
pub use patch::{Patch, PatchError};
pub use scope::{Scope, Step};
pub use types::{TensorType, Type};
pub use verify::{Violation, verify};
