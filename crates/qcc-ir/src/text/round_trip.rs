//! Printer and parser against each other, on made-up graphs and on damaged text.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use qcc_tensor::{DType, Dim, Origin, Tensor, checked_len};

use super::{ParseError, PrintOptions, Stored, parse, print, print_with};
use crate::types::TensorType;
use crate::{Attr, Attrs, Graph, GraphBuilder, OpRef, Opaque, Output, Region, Type, Value, verify};

fn make_op(domain: &str, name: &str, _: i64, attrs: Attrs) -> Result<OpRef, String> {
    Ok(Arc::new(Opaque { domain: domain.into(), name: name.into(), attrs }))
}

/// Bytes of large tensors by hash.
type Stock = BTreeMap<String, Bytes>;

fn read(text: &str, stock: &Stock) -> Result<Vec<Graph>, ParseError> {
    let load = |it: &Stored<'_>| {
        let found = it.blake3.and_then(|it| stock.get(it)).cloned();
        found.ok_or_else(|| "not in stock".to_owned())
    };
    parse(text, &make_op, &load)
}

/// Decisions of a made-up graph; 0 when there are no more.
struct Choices<'a> {
    numbers: std::slice::Iter<'a, u32>,
    n_names: usize,
    stock: Stock,
}

impl Choices<'_> {
    fn next(&mut self) -> u32 {
        self.numbers.next().copied().unwrap_or(0)
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }

    fn many<T>(&mut self, end: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(end)).map(|_| item(self)).collect()
    }

    fn name(&mut self) -> String {
        self.n_names += 1;
        let head =
            self.pick(&["x", "/a/b.", "a b", "\u{e9}\n\"\\\0", "", "-", "a//b", "a::", "const"]);
        let tail = self.pick(&["", "", ":", "-", "/", "_"]);
        format!("{head}{}{tail}", self.n_names)
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn float(&mut self) -> f32 {
        let special = [0x7fc0_0000, 0x7f80_0001, 0xff80_0000, 0x8000_0000, 0x3f80_0000, 1];
        let at = self.below(12);
        f32::from_bits(special.get(at).copied().unwrap_or_else(|| self.next()))
    }

    fn ty(&mut self) -> Type {
        if self.below(6) == 0 {
            return Type::Other(self.name());
        }
        let dtype = self.dtype();
        let shape = self.many(4, |it| match it.below(3) {
            0 => Dim::Unknown,
            1 => Dim::Known(it.below(5)),
            _ => Dim::symbol(it.pick(&["batch", "a b", "2", "?", "", "n_1.x", "a-b"])),
        });
        match self.below(5) {
            0 => Type::Unknown,
            1 => Type::Tensor(TensorType { dtype: None, shape: None }),
            2 => Type::Tensor(TensorType { dtype: None, shape: Some(shape) }),
            3 => Type::Tensor(TensorType { dtype: Some(dtype), shape: None }),
            _ => Type::Tensor(TensorType { dtype: Some(dtype), shape: Some(shape) }),
        }
    }

    fn dtype(&mut self) -> DType {
        DType::ALL[self.below(DType::ALL.len())]
    }

    fn tensor(&mut self) -> Tensor {
        let dtype = self.dtype();
        let dims = match self.below(8) {
            0 => vec![5, 13 + self.below(3)],
            _ => self.many(4, |it| it.below(4)),
        };
        let len = checked_len(&dims).unwrap();
        let Some(n_bytes) = dtype.size_of(len) else {
            let strings = (0..len).map(|_| {
                let len = self.below(4);
                self.bytes(len)
            });
            let strings = strings.collect();
            return Tensor::strings(dims, strings).unwrap();
        };
        let bytes = self.bytes(n_bytes);
        self.stock.insert(blake3::hash(&bytes).to_string(), bytes.clone());
        let tensor = Tensor::new(dtype, dims, bytes).unwrap();
        match self.below(3) {
            0 => {
                let (file, offset) = (self.name().into(), u64::from(self.next()));
                tensor.with_origin(Origin { file, offset, len: n_bytes as u64 })
            }
            _ => tensor,
        }
    }

    fn attr(&mut self) -> Attr {
        let string = |it: &mut Self| {
            let len = it.below(6);
            it.bytes(len)
        };
        let int =
            |it: &mut Self| (i64::from(it.next()) << 32 | i64::from(it.next())) >> it.below(64);
        match self.below(10) {
            9 => Attr::Ref(self.name()),
            0 => Attr::Float(self.float()),
            1 => Attr::Int(int(self)),
            2 => Attr::Str(string(self)),
            3 => Attr::Tensor(self.tensor()),
            4 => Attr::Floats(self.many(4, Self::float)),
            5 => Attr::Ints(self.many(4, int)),
            6 => Attr::Strs(self.many(4, string)),
            7 => Attr::Tensors(self.many(3, Self::tensor)),
            _ => Attr::Raw(string(self)),
        }
    }

    /// A graph that captures `captures`, with regions in it to `depth`.
    fn graph(&mut self, captures: &[String], depth: usize) -> Graph {
        let mut builder = GraphBuilder::new(&self.name());
        let mut values: Vec<Value> = Vec::new();
        for name in captures {
            // The inner name may be the outer one.
            let name = if self.below(2) == 0 { name.clone() } else { self.name() };
            values.push(builder.capture(&name, self.ty()));
        }
        for _ in 0..self.below(8) {
            let name = self.name();
            match self.below(4) {
                0 => {
                    let (ty, has_default) = (self.ty(), self.below(2) == 0);
                    let default = has_default.then(|| self.tensor());
                    values.push(builder.input(&name, ty, default));
                }
                1 => values.push(builder.constant(&name, self.tensor())),
                _ => self.op(&mut builder, &mut values, depth),
            }
        }
        let outputs = self.some_of(&values);
        builder.set_outputs(outputs);
        builder.finish().unwrap()
    }

    fn op(&mut self, builder: &mut GraphBuilder, values: &mut Vec<Value>, depth: usize) {
        let names =
            self.many(4, |it| format!("{}{}", it.pick(&["a", "a ", "graph", "_"]), it.name()));
        let attrs = names.into_iter().map(|name| (name, self.attr())).collect();
        let domain = self.pick(&["", "", "com.microsoft", "my domain", "a::b"]);
        let op = make_op(domain, self.pick(&["Add", "const", "graph", "a::b", "2", ""]), 1, attrs);
        let mut operands: Vec<_> = self.some_of(values).into_iter().map(Some).collect();
        if self.below(2) == 0 {
            operands.insert(self.below(operands.len() + 1), None);
        }
        let outputs = self.many(4, |it| {
            let is_absent = it.below(4) == 0;
            let name = if is_absent { String::new() } else { it.name() };
            Output::new(name, it.ty())
        });
        let node_name = if self.below(2) == 0 { String::new() } else { self.name() };
        let node = builder.op(&node_name, op.unwrap(), operands, outputs);
        if depth > 0 && self.below(3) == 0 {
            let regions = self.many(3, |it| {
                let captures = it.some_of(values);
                let names: Vec<String> = captures
                    .iter()
                    .map(|&value| builder.graph().value_name(value).to_owned())
                    .collect();
                // Each inner name may be used once.
                let is_set = names.iter().collect::<std::collections::BTreeSet<_>>().len();
                let (captures, names) =
                    if is_set == names.len() { (captures, names) } else { (vec![], vec![]) };
                let graph = it.graph(&names, depth - 1);
                Region { attr: it.name(), graph, captures }
            });
            builder.set_regions(node, regions);
        }
        let added: Vec<Value> = builder.graph().values_of(node).collect();
        values.extend(added.into_iter().filter(|&it| !builder.graph().value_name(it).is_empty()));
    }

    fn some_of(&mut self, values: &[Value]) -> Vec<Value> {
        match values.len() {
            0 => Vec::new(),
            len => self.many(4, |it| values[it.below(len)]),
        }
    }
}

fn made_up(numbers: &[u32]) -> (Graph, Stock) {
    let mut choices = Choices { numbers: numbers.iter(), n_names: 0, stock: Stock::new() };
    let graph = choices.graph(&[], 2);
    (graph, choices.stock)
}

fn check_round_trip(graph: &Graph, stock: &Stock, options: PrintOptions) {
    let text = print_with(graph, &options);
    let back = read(&text, stock).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(back.len(), 1);
    assert_eq!(graph.same_as(&back[0]), Ok(()), "{text}");
    assert_eq!(print_with(&back[0], &options), text);
    assert_eq!(verify(&back[0]), []);
}

fn damaged(text: &str, edits: &[(u32, u32, u8)]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for &(at, kind, byte) in edits {
        let at = at as usize % (bytes.len() + 1);
        let end = (at + 1 + kind as usize / 8 % 24).min(bytes.len());
        match kind % 5 {
            0 if at < bytes.len() => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let signs = b"()[]{}<>,=?*:%@\"\\/-_0129exn\n ";
                bytes.insert(at, signs[usize::from(byte) % signs.len()]);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn examples_of_the_manual_read_back() {
    let manual = include_str!("../../../../docs/qir.md");
    let examples = manual.split("```qir\n").skip(1).filter_map(|it| it.split("```").next());
    let mut n_graphs = 0;
    for text in examples {
        for graph in read(text, &Stock::new()).unwrap() {
            check_round_trip(&graph, &Stock::new(), PrintOptions::default());
            let mut lines = text.lines().filter(|it| !it.starts_with("//"));
            assert!(print(&graph).lines().all(|it| lines.next() == Some(it)), "{graph}");
            n_graphs += 1;
        }
    }
    assert_eq!(n_graphs, 4);
}

#[test]
fn nodes_are_printed_in_the_order_of_reading() {
    let mut builder = GraphBuilder::new("g");
    let mut op = |name: &str| {
        let op = make_op("", "Op", 1, Attrs::new()).unwrap();
        builder.op("", op, vec![], vec![Output::new(name, Type::Unknown)])
    };
    let (a, b) = (op("a"), op("b"));
    let x = builder.input("x", Type::Unknown, None);
    builder.set_inputs(a, vec![Some(Value { node: b, slot: 0 }), Some(x)]);
    let graph = builder.finish().unwrap();
    insta::assert_snapshot!(graph, @r"
    graph @g(%x) -> () {
      %b = Op()
      %a = Op(%b, %x)
    }
    ");
    check_round_trip(&graph, &Stock::new(), PrintOptions::default());
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(numbers in prop::collection::vec(any::<u32>(), 0..600)) {
        let (graph, stock) = made_up(&numbers);
        prop_assert_eq!(verify(&graph), []);
        check_round_trip(&graph, &stock, PrintOptions::default());
        check_round_trip(&graph, &Stock::new(), PrintOptions { inline_all: true });
    }

    #[test]
    fn damaged_text_is_refused_or_read_rightly(
        numbers in prop::collection::vec(any::<u32>(), 0..300),
        edits in prop::collection::vec(any::<(u32, u32, u8)>(), 1..5),
    ) {
        let (graph, stock) = made_up(&numbers);
        match read(&damaged(&print(&graph), &edits), &stock) {
            Ok(graphs) => graphs.iter().for_each(|it| check_round_trip(it, &stock, PrintOptions::default())),
            Err(error) => {
                let shown = error.diagnostic().to_string();
                prop_assert!(shown.starts_with("error[QCC0306]"));
            }
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "[graph @%x(){}\\[\\]<>:=,?*\"\\\\0-9a-f_/.\n-]{0,80}") {
        let _ = read(&text, &Stock::new());
        let _ = read(&format!("graph @g() -> () {{ {text}"), &Stock::new());
    }
}
