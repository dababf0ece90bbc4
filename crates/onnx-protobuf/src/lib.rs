//! ONNX messages for prost, and a walker that keeps what the schema does not know.
//!
//! * The message types of IR version 14, generated from `proto/onnx.proto`. Singular fields are
//!   `Option`s, so an empty field and an absent one stay two things. `TensorProto.raw_data` is
//!   `Bytes`: decoding from a `Bytes` that owns a mapped file copies no tensor.
//! * [`unknown_fields`]: what decoding would drop without a word.
//! * [`wire`] and [`fields`]: records and field numbers, to copy parts of a file as they are.
//!
//! prost writes fields by number as the C++ and Python libraries do, with one exception: a
//! `TypeProto` with a `denotation` and an opaque, sparse or optional type is written with the type
//! first. Nothing here checks that a model makes sense.

pub mod fields;
pub mod schema;
mod walk;
pub mod wire;

#[allow(missing_docs, clippy::all)]
mod generated;

pub use generated::attribute_proto::AttributeType;
pub use generated::tensor_proto::{DataLocation, DataType};
pub use generated::{
    AttributeProto, DeviceConfigurationProto, FunctionProto, GraphProto, IntIntListEntryProto,
    MapProto, ModelProto, NodeDeviceConfigurationProto, NodeProto, OperatorSetIdProto,
    OperatorStatus, OptionalProto, SequenceProto, ShardedDimProto, ShardingSpecProto,
    SimpleShardedDimProto, SparseTensorProto, StringStringEntryProto, TensorAnnotation,
    TensorProto, TensorShapeProto, TrainingInfoProto, TypeProto, ValueInfoProto, Version,
};
pub use generated::{
    attribute_proto, optional_proto, sequence_proto, simple_sharded_dim_proto, tensor_proto,
    tensor_shape_proto, type_proto,
};
pub use prost::{DecodeError, Message};
pub use walk::{Loss, UnknownField, WalkError, unknown_fields, unknown_fields_of};

/// The newest `ModelProto.ir_version` this schema knows, of onnx 1.23.
pub const IR_VERSION: i64 = Version::IrVersion as i64;
