//! Raising the default opset: what a node has to become so that it means the same.
//!
//! Most operators only gain types and what is optional between two versions: `stable.rs` lists
//! them. Of the others, those that moved attributes to inputs or made a default explicit are raised
//! here. Source: the schema history of onnx 1.23 up to opset 25.

use onnx_protobuf::{AttributeProto, AttributeType, NodeProto, TensorProto};

use super::stable::is_stable;
use crate::WriteError;

/// Raises nodes of the default domain from one opset to another.
#[derive(Debug)]
pub(crate) struct Upgrade {
    from: i64,
    to: i64,
    /// Constants that raised nodes read, not yet written.
    nodes: Vec<NodeProto>,
    count: usize,
}

/// Operators with the attribute `axes` that is an input since the opset given.
const AXES: &[(&str, i64)] = &[
    ("Squeeze", 13),
    ("Unsqueeze", 13),
    ("ReduceSum", 13),
    ("ReduceL1", 18),
    ("ReduceL2", 18),
    ("ReduceLogSum", 18),
    ("ReduceLogSumExp", 18),
    ("ReduceMax", 18),
    ("ReduceMean", 18),
    ("ReduceMin", 18),
    ("ReduceProd", 18),
    ("ReduceSumSquare", 18),
];

impl Upgrade {
    /// Nothing is raised when both are equal.
    pub(crate) fn new(from: i64, to: i64) -> Self {
        Self { from, to, nodes: Vec::new(), count: 0 }
    }

    /// The constants that the nodes raised so far read.
    pub(crate) fn take_nodes(&mut self) -> Vec<NodeProto> {
        std::mem::take(&mut self.nodes)
    }

    /// The node at the newer opset, or `None` when it stays as it is.
    ///
    /// # Errors
    /// When it would mean something else there.
    pub(crate) fn raise(&mut self, mut node: NodeProto) -> Result<Option<NodeProto>, WriteError> {
        if self.from >= self.to || !matches!(node.domain(), "" | "ai.onnx") {
            return Ok(None);
        }
        let op = node.op_type().to_owned();
        let crosses = |at: i64| self.from < at && at <= self.to;
        if AXES.iter().any(|it| it.0 == op && crosses(it.1)) {
            let Some(axes) = take(&mut node, "axes") else { return Ok(None) };
            self.add_input(&mut node, &axes.ints);
            return Ok(Some(node));
        }
        if op == "Split" {
            let split = if crosses(13) { take(&mut node, "split") } else { None };
            if let Some(split) = split {
                self.add_input(&mut node, &split.ints);
                return Ok(Some(node));
            }
            if crosses(18) && node.input.len() < 2 {
                let count = node.output.len() as i64;
                node.attribute.push(int_attribute("num_outputs", count));
                return Ok(Some(node));
            }
            return Ok(None);
        }
        if op == "Dropout" && crosses(12) {
            // At inference the ratio has no effect.
            return Ok(take(&mut node, "ratio").map(|_| node));
        }
        let is_last_axis = |it: &AttributeProto| it.name() == "axis" && it.i() == -1;
        if matches!(op.as_str(), "Softmax" | "LogSoftmax" | "Hardmax")
            && node.attribute.iter().any(is_last_axis)
        {
            return Ok(None);
        }
        // One output is the form of inference, whose meaning is that of opset 14 since opset 9.
        if op == "BatchNormalization" && self.from >= 9 && node.output.len() == 1 {
            return Ok(None);
        }
        let is_gone = |it: &AttributeProto| {
            it.name() == "coordinate_transformation_mode" && it.s() == b"tf_half_pixel_for_nn"
        };
        let lost_its_mode = op == "Resize" && crosses(13) && node.attribute.iter().any(is_gone);
        if lost_its_mode || !is_stable(&op, self.from) {
            let node = match node.name() {
                "" => node.output.first().cloned().unwrap_or_default(),
                name => name.to_owned(),
            };
            return Err(WriteError::Opset { need: self.to, have: self.from, op, node });
        }
        Ok(None)
    }

    /// Adds a constant as the second input.
    fn add_input(&mut self, node: &mut NodeProto, values: &[i64]) {
        let base = node.output.first().cloned().unwrap_or_default();
        self.count += 1;
        let name = format!("{base}_axes_{}", self.count);
        let tensor = TensorProto {
            dims: vec![values.len() as i64],
            data_type: Some(7),
            int64_data: values.to_vec(),
            ..TensorProto::default()
        };
        self.nodes.push(NodeProto {
            output: vec![name.clone()],
            name: Some(name.clone()),
            op_type: Some("Constant".to_owned()),
            attribute: vec![AttributeProto {
                name: Some("value".to_owned()),
                r#type: Some(AttributeType::Tensor as i32),
                t: Some(tensor),
                ..AttributeProto::default()
            }],
            ..NodeProto::default()
        });
        node.input.push(name);
    }
}

fn take(node: &mut NodeProto, name: &str) -> Option<AttributeProto> {
    let position = node.attribute.iter().position(|it| it.name() == name)?;
    Some(node.attribute.remove(position))
}

fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, attributes: Vec<AttributeProto>) -> NodeProto {
        NodeProto {
            input: vec!["x".into()],
            output: vec!["y".into(), "z".into()],
            op_type: Some(op.into()),
            attribute: attributes,
            ..NodeProto::default()
        }
    }

    #[test]
    fn axes_become_an_input() {
        let axes =
            AttributeProto { name: Some("axes".into()), ints: vec![-1], ..Default::default() };
        let mut upgrade = Upgrade::new(17, 21);
        let raised = upgrade.raise(node("ReduceMean", vec![axes.clone()])).unwrap().unwrap();
        assert_eq!(raised.input, ["x", "y_axes_1"]);
        assert!(raised.attribute.is_empty());
        assert_eq!(upgrade.take_nodes().len(), 1);
        assert_eq!(Upgrade::new(18, 21).raise(node("ReduceMean", vec![axes])).unwrap(), None);
    }

    #[test]
    fn split_states_its_count() {
        let raised = Upgrade::new(17, 21).raise(node("Split", Vec::new())).unwrap().unwrap();
        assert_eq!(raised.attribute[0].i(), 2);
    }

    #[test]
    fn what_only_gained_types_stays() {
        for (op, from) in [("Conv", 15), ("LSTM", 11), ("RoiAlign", 16), ("DequantizeLinear", 8)] {
            let raised = Upgrade::new(from, 25).raise(node(op, Vec::new())).unwrap();
            assert_eq!(raised, None, "{op}");
        }
    }

    #[test]
    fn batch_normalization_is_raised_at_inference() {
        let mut node = node("BatchNormalization", Vec::new());
        assert!(Upgrade::new(9, 21).raise(node.clone()).is_err(), "it has outputs of training");
        node.output.truncate(1);
        assert_eq!(Upgrade::new(9, 21).raise(node.clone()).unwrap(), None);
        assert!(Upgrade::new(8, 21).raise(node).is_err());
    }

    #[test]
    fn a_mode_that_is_gone_is_refused() {
        let mode = AttributeProto {
            name: Some("coordinate_transformation_mode".into()),
            s: Some(b"tf_half_pixel_for_nn".as_slice().into()),
            ..Default::default()
        };
        assert!(Upgrade::new(11, 21).raise(node("Resize", vec![mode])).is_err());
        assert_eq!(Upgrade::new(11, 21).raise(node("Resize", Vec::new())).unwrap(), None);
    }

    #[test]
    fn what_changes_its_meaning_is_refused() {
        assert!(Upgrade::new(12, 21).raise(node("Softmax", Vec::new())).is_err());
        assert_eq!(Upgrade::new(13, 21).raise(node("Softmax", Vec::new())).unwrap(), None);
        assert!(Upgrade::new(17, 21).raise(node("NoSuchOp", Vec::new())).is_err());
        assert!(Upgrade::new(9, 21).raise(node("Upsample", Vec::new())).is_err(), "deprecated");
        assert!(Upgrade::new(15, 21).raise(node("RoiAlign", Vec::new())).is_err());
        assert_eq!(Upgrade::new(21, 21).raise(node("NoSuchOp", Vec::new())).unwrap(), None);
    }
}
