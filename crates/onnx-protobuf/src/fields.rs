//! Field numbers and the table of the walker, from `proto/*.proto`.
//!
//! Written by `cargo xtask gen`; change the schema and run it again.

use crate::schema::{
    Kind::{Bytes, Fixed32, Fixed64, Sub, Varint},
    MessageSpec, many, one,
};

#[rustfmt::skip]
pub(crate) static MESSAGES: &[MessageSpec] = &[
    MessageSpec { name: "ModelProto", fields: &[
        one(1, "ir_version", Varint, 0),
        one(2, "producer_name", Bytes, 1),
        one(3, "producer_version", Bytes, 2),
        one(4, "domain", Bytes, 3),
        one(5, "model_version", Varint, 4),
        one(6, "doc_string", Bytes, 5),
        one(7, "graph", Sub(3), 6),
        many(8, "opset_import", Sub(1)),
        many(14, "metadata_props", Sub(2)),
        many(20, "training_info", Sub(21)),
        many(25, "functions", Sub(19)),
        many(26, "configuration", Sub(22)),
    ] },
    MessageSpec { name: "OperatorSetIdProto", fields: &[
        one(1, "domain", Bytes, 0),
        one(2, "version", Varint, 1),
    ] },
    MessageSpec { name: "StringStringEntryProto", fields: &[
        one(1, "key", Bytes, 0),
        one(2, "value", Bytes, 1),
    ] },
    MessageSpec { name: "GraphProto", fields: &[
        many(1, "node", Sub(4)),
        one(2, "name", Bytes, 0),
        many(5, "initializer", Sub(6)),
        one(10, "doc_string", Bytes, 1),
        many(11, "input", Sub(9)),
        many(12, "output", Sub(9)),
        many(13, "value_info", Sub(9)),
        many(14, "quantization_annotation", Sub(20)),
        many(15, "sparse_initializer", Sub(8)),
        many(16, "metadata_props", Sub(2)),
    ] },
    MessageSpec { name: "NodeProto", fields: &[
        many(1, "input", Bytes),
        many(2, "output", Bytes),
        one(3, "name", Bytes, 0),
        one(4, "op_type", Bytes, 1),
        many(5, "attribute", Sub(5)),
        one(6, "doc_string", Bytes, 2),
        one(7, "domain", Bytes, 3),
        one(8, "overload", Bytes, 4),
        many(9, "metadata_props", Sub(2)),
        many(10, "device_configurations", Sub(23)),
    ] },
    MessageSpec { name: "AttributeProto", fields: &[
        one(1, "name", Bytes, 0),
        one(2, "f", Fixed32, 1),
        one(3, "i", Varint, 2),
        one(4, "s", Bytes, 3),
        one(5, "t", Sub(6), 4),
        one(6, "g", Sub(3), 5),
        many(7, "floats", Fixed32),
        many(8, "ints", Varint),
        many(9, "strings", Bytes),
        many(10, "tensors", Sub(6)),
        many(11, "graphs", Sub(3)),
        one(13, "doc_string", Bytes, 6),
        one(14, "tp", Sub(10), 7),
        many(15, "type_protos", Sub(10)),
        one(20, "type", Varint, 8),
        one(21, "ref_attr_name", Bytes, 9),
        one(22, "sparse_tensor", Sub(8), 10),
        many(23, "sparse_tensors", Sub(8)),
    ] },
    MessageSpec { name: "TensorProto", fields: &[
        many(1, "dims", Varint),
        one(2, "data_type", Varint, 0),
        one(3, "segment", Sub(7), 1),
        many(4, "float_data", Fixed32),
        many(5, "int32_data", Varint),
        many(6, "string_data", Bytes),
        many(7, "int64_data", Varint),
        one(8, "name", Bytes, 2),
        one(9, "raw_data", Bytes, 3),
        many(10, "double_data", Fixed64),
        many(11, "uint64_data", Varint),
        one(12, "doc_string", Bytes, 4),
        many(13, "external_data", Sub(2)),
        one(14, "data_location", Varint, 5),
        many(16, "metadata_props", Sub(2)),
    ] },
    MessageSpec { name: "TensorProto.Segment", fields: &[
        one(1, "begin", Varint, 0),
        one(2, "end", Varint, 1),
    ] },
    MessageSpec { name: "SparseTensorProto", fields: &[
        one(1, "values", Sub(6), 0),
        one(2, "indices", Sub(6), 1),
        many(3, "dims", Varint),
    ] },
    MessageSpec { name: "ValueInfoProto", fields: &[
        one(1, "name", Bytes, 0),
        one(2, "type", Sub(10), 1),
        one(3, "doc_string", Bytes, 2),
        many(4, "metadata_props", Sub(2)),
    ] },
    MessageSpec { name: "TypeProto", fields: &[
        one(1, "tensor_type", Sub(11), 0),
        one(4, "sequence_type", Sub(12), 0),
        one(5, "map_type", Sub(13), 0),
        one(6, "denotation", Bytes, 1),
        one(7, "opaque_type", Sub(16), 0),
        one(8, "sparse_tensor_type", Sub(15), 0),
        one(9, "optional_type", Sub(14), 0),
    ] },
    MessageSpec { name: "TypeProto.Tensor", fields: &[
        one(1, "elem_type", Varint, 0),
        one(2, "shape", Sub(17), 1),
    ] },
    MessageSpec { name: "TypeProto.Sequence", fields: &[
        one(1, "elem_type", Sub(10), 0),
    ] },
    MessageSpec { name: "TypeProto.Map", fields: &[
        one(1, "key_type", Varint, 0),
        one(2, "value_type", Sub(10), 1),
    ] },
    MessageSpec { name: "TypeProto.Optional", fields: &[
        one(1, "elem_type", Sub(10), 0),
    ] },
    MessageSpec { name: "TypeProto.SparseTensor", fields: &[
        one(1, "elem_type", Varint, 0),
        one(2, "shape", Sub(17), 1),
    ] },
    MessageSpec { name: "TypeProto.Opaque", fields: &[
        one(1, "domain", Bytes, 0),
        one(2, "name", Bytes, 1),
    ] },
    MessageSpec { name: "TensorShapeProto", fields: &[
        many(1, "dim", Sub(18)),
    ] },
    MessageSpec { name: "TensorShapeProto.Dimension", fields: &[
        one(1, "dim_value", Varint, 0),
        one(2, "dim_param", Bytes, 0),
        one(3, "denotation", Bytes, 1),
    ] },
    MessageSpec { name: "FunctionProto", fields: &[
        one(1, "name", Bytes, 0),
        many(4, "input", Bytes),
        many(5, "output", Bytes),
        many(6, "attribute", Bytes),
        many(7, "node", Sub(4)),
        one(8, "doc_string", Bytes, 1),
        many(9, "opset_import", Sub(1)),
        one(10, "domain", Bytes, 2),
        many(11, "attribute_proto", Sub(5)),
        many(12, "value_info", Sub(9)),
        one(13, "overload", Bytes, 3),
        many(14, "metadata_props", Sub(2)),
    ] },
    MessageSpec { name: "TensorAnnotation", fields: &[
        one(1, "tensor_name", Bytes, 0),
        many(2, "quant_parameter_tensor_names", Sub(2)),
    ] },
    MessageSpec { name: "TrainingInfoProto", fields: &[
        one(1, "initialization", Sub(3), 0),
        one(2, "algorithm", Sub(3), 1),
        many(3, "initialization_binding", Sub(2)),
        many(4, "update_binding", Sub(2)),
    ] },
    MessageSpec { name: "DeviceConfigurationProto", fields: &[
        one(1, "name", Bytes, 0),
        one(2, "num_devices", Varint, 1),
        many(3, "device", Bytes),
    ] },
    MessageSpec { name: "NodeDeviceConfigurationProto", fields: &[
        one(1, "configuration_id", Bytes, 0),
        many(2, "sharding_spec", Sub(24)),
        one(3, "pipeline_stage", Varint, 1),
    ] },
    MessageSpec { name: "ShardingSpecProto", fields: &[
        one(1, "tensor_name", Bytes, 0),
        many(2, "device", Varint),
        many(3, "index_to_device_group_map", Sub(25)),
        many(4, "sharded_dim", Sub(26)),
    ] },
    MessageSpec { name: "IntIntListEntryProto", fields: &[
        one(1, "key", Varint, 0),
        many(2, "value", Varint),
    ] },
    MessageSpec { name: "ShardedDimProto", fields: &[
        one(1, "axis", Varint, 0),
        many(2, "simple_sharding", Sub(27)),
    ] },
    MessageSpec { name: "SimpleShardedDimProto", fields: &[
        one(1, "dim_value", Varint, 0),
        one(2, "dim_param", Bytes, 0),
        one(3, "num_shards", Varint, 1),
    ] },
    MessageSpec { name: "SequenceProto", fields: &[
        one(1, "name", Bytes, 0),
        one(2, "elem_type", Varint, 1),
        many(3, "tensor_values", Sub(6)),
        many(4, "sparse_tensor_values", Sub(8)),
        many(5, "sequence_values", Sub(28)),
        many(6, "map_values", Sub(29)),
        many(7, "optional_values", Sub(30)),
    ] },
    MessageSpec { name: "MapProto", fields: &[
        one(1, "name", Bytes, 0),
        one(2, "key_type", Varint, 1),
        many(3, "keys", Varint),
        many(4, "string_keys", Bytes),
        one(5, "values", Sub(28), 2),
    ] },
    MessageSpec { name: "OptionalProto", fields: &[
        one(1, "name", Bytes, 0),
        one(2, "elem_type", Varint, 1),
        one(3, "tensor_value", Sub(6), 2),
        one(4, "sparse_tensor_value", Sub(8), 3),
        one(5, "sequence_value", Sub(28), 4),
        one(6, "map_value", Sub(29), 5),
        one(7, "optional_value", Sub(30), 6),
    ] },
];

/// Field numbers of `ModelProto`.
pub mod model_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(0);
    /// `ModelProto.ir_version`.
    pub const IR_VERSION: u32 = 1;
    /// `ModelProto.producer_name`.
    pub const PRODUCER_NAME: u32 = 2;
    /// `ModelProto.producer_version`.
    pub const PRODUCER_VERSION: u32 = 3;
    /// `ModelProto.domain`.
    pub const DOMAIN: u32 = 4;
    /// `ModelProto.model_version`.
    pub const MODEL_VERSION: u32 = 5;
    /// `ModelProto.doc_string`.
    pub const DOC_STRING: u32 = 6;
    /// `ModelProto.graph`.
    pub const GRAPH: u32 = 7;
    /// `ModelProto.opset_import`.
    pub const OPSET_IMPORT: u32 = 8;
    /// `ModelProto.metadata_props`.
    pub const METADATA_PROPS: u32 = 14;
    /// `ModelProto.training_info`.
    pub const TRAINING_INFO: u32 = 20;
    /// `ModelProto.functions`.
    pub const FUNCTIONS: u32 = 25;
    /// `ModelProto.configuration`.
    pub const CONFIGURATION: u32 = 26;
}

/// Field numbers of `OperatorSetIdProto`.
pub mod operator_set_id_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(1);
    /// `OperatorSetIdProto.domain`.
    pub const DOMAIN: u32 = 1;
    /// `OperatorSetIdProto.version`.
    pub const VERSION: u32 = 2;
}

/// Field numbers of `StringStringEntryProto`.
pub mod string_string_entry_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(2);
    /// `StringStringEntryProto.key`.
    pub const KEY: u32 = 1;
    /// `StringStringEntryProto.value`.
    pub const VALUE: u32 = 2;
}

/// Field numbers of `GraphProto`.
pub mod graph_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(3);
    /// `GraphProto.node`.
    pub const NODE: u32 = 1;
    /// `GraphProto.name`.
    pub const NAME: u32 = 2;
    /// `GraphProto.initializer`.
    pub const INITIALIZER: u32 = 5;
    /// `GraphProto.doc_string`.
    pub const DOC_STRING: u32 = 10;
    /// `GraphProto.input`.
    pub const INPUT: u32 = 11;
    /// `GraphProto.output`.
    pub const OUTPUT: u32 = 12;
    /// `GraphProto.value_info`.
    pub const VALUE_INFO: u32 = 13;
    /// `GraphProto.quantization_annotation`.
    pub const QUANTIZATION_ANNOTATION: u32 = 14;
    /// `GraphProto.sparse_initializer`.
    pub const SPARSE_INITIALIZER: u32 = 15;
    /// `GraphProto.metadata_props`.
    pub const METADATA_PROPS: u32 = 16;
}

/// Field numbers of `NodeProto`.
pub mod node_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(4);
    /// `NodeProto.input`.
    pub const INPUT: u32 = 1;
    /// `NodeProto.output`.
    pub const OUTPUT: u32 = 2;
    /// `NodeProto.name`.
    pub const NAME: u32 = 3;
    /// `NodeProto.op_type`.
    pub const OP_TYPE: u32 = 4;
    /// `NodeProto.attribute`.
    pub const ATTRIBUTE: u32 = 5;
    /// `NodeProto.doc_string`.
    pub const DOC_STRING: u32 = 6;
    /// `NodeProto.domain`.
    pub const DOMAIN: u32 = 7;
    /// `NodeProto.overload`.
    pub const OVERLOAD: u32 = 8;
    /// `NodeProto.metadata_props`.
    pub const METADATA_PROPS: u32 = 9;
    /// `NodeProto.device_configurations`.
    pub const DEVICE_CONFIGURATIONS: u32 = 10;
}

/// Field numbers of `AttributeProto`.
pub mod attribute_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(5);
    /// `AttributeProto.name`.
    pub const NAME: u32 = 1;
    /// `AttributeProto.f`.
    pub const F: u32 = 2;
    /// `AttributeProto.i`.
    pub const I: u32 = 3;
    /// `AttributeProto.s`.
    pub const S: u32 = 4;
    /// `AttributeProto.t`.
    pub const T: u32 = 5;
    /// `AttributeProto.g`.
    pub const G: u32 = 6;
    /// `AttributeProto.floats`.
    pub const FLOATS: u32 = 7;
    /// `AttributeProto.ints`.
    pub const INTS: u32 = 8;
    /// `AttributeProto.strings`.
    pub const STRINGS: u32 = 9;
    /// `AttributeProto.tensors`.
    pub const TENSORS: u32 = 10;
    /// `AttributeProto.graphs`.
    pub const GRAPHS: u32 = 11;
    /// `AttributeProto.doc_string`.
    pub const DOC_STRING: u32 = 13;
    /// `AttributeProto.tp`.
    pub const TP: u32 = 14;
    /// `AttributeProto.type_protos`.
    pub const TYPE_PROTOS: u32 = 15;
    /// `AttributeProto.type`.
    pub const TYPE: u32 = 20;
    /// `AttributeProto.ref_attr_name`.
    pub const REF_ATTR_NAME: u32 = 21;
    /// `AttributeProto.sparse_tensor`.
    pub const SPARSE_TENSOR: u32 = 22;
    /// `AttributeProto.sparse_tensors`.
    pub const SPARSE_TENSORS: u32 = 23;
}

/// Field numbers of `TensorProto`.
pub mod tensor_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(6);
    /// `TensorProto.dims`.
    pub const DIMS: u32 = 1;
    /// `TensorProto.data_type`.
    pub const DATA_TYPE: u32 = 2;
    /// `TensorProto.segment`.
    pub const SEGMENT: u32 = 3;
    /// `TensorProto.float_data`.
    pub const FLOAT_DATA: u32 = 4;
    /// `TensorProto.int32_data`.
    pub const INT32_DATA: u32 = 5;
    /// `TensorProto.string_data`.
    pub const STRING_DATA: u32 = 6;
    /// `TensorProto.int64_data`.
    pub const INT64_DATA: u32 = 7;
    /// `TensorProto.name`.
    pub const NAME: u32 = 8;
    /// `TensorProto.raw_data`.
    pub const RAW_DATA: u32 = 9;
    /// `TensorProto.double_data`.
    pub const DOUBLE_DATA: u32 = 10;
    /// `TensorProto.uint64_data`.
    pub const UINT64_DATA: u32 = 11;
    /// `TensorProto.doc_string`.
    pub const DOC_STRING: u32 = 12;
    /// `TensorProto.external_data`.
    pub const EXTERNAL_DATA: u32 = 13;
    /// `TensorProto.data_location`.
    pub const DATA_LOCATION: u32 = 14;
    /// `TensorProto.metadata_props`.
    pub const METADATA_PROPS: u32 = 16;
}

/// Field numbers of `TensorProto.Segment`.
pub mod tensor_proto_segment {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(7);
    /// `TensorProto.Segment.begin`.
    pub const BEGIN: u32 = 1;
    /// `TensorProto.Segment.end`.
    pub const END: u32 = 2;
}

/// Field numbers of `SparseTensorProto`.
pub mod sparse_tensor_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(8);
    /// `SparseTensorProto.values`.
    pub const VALUES: u32 = 1;
    /// `SparseTensorProto.indices`.
    pub const INDICES: u32 = 2;
    /// `SparseTensorProto.dims`.
    pub const DIMS: u32 = 3;
}

/// Field numbers of `ValueInfoProto`.
pub mod value_info_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(9);
    /// `ValueInfoProto.name`.
    pub const NAME: u32 = 1;
    /// `ValueInfoProto.type`.
    pub const TYPE: u32 = 2;
    /// `ValueInfoProto.doc_string`.
    pub const DOC_STRING: u32 = 3;
    /// `ValueInfoProto.metadata_props`.
    pub const METADATA_PROPS: u32 = 4;
}

/// Field numbers of `TypeProto`.
pub mod type_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(10);
    /// `TypeProto.tensor_type`.
    pub const TENSOR_TYPE: u32 = 1;
    /// `TypeProto.sequence_type`.
    pub const SEQUENCE_TYPE: u32 = 4;
    /// `TypeProto.map_type`.
    pub const MAP_TYPE: u32 = 5;
    /// `TypeProto.denotation`.
    pub const DENOTATION: u32 = 6;
    /// `TypeProto.opaque_type`.
    pub const OPAQUE_TYPE: u32 = 7;
    /// `TypeProto.sparse_tensor_type`.
    pub const SPARSE_TENSOR_TYPE: u32 = 8;
    /// `TypeProto.optional_type`.
    pub const OPTIONAL_TYPE: u32 = 9;
}

/// Field numbers of `TypeProto.Tensor`.
pub mod type_proto_tensor {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(11);
    /// `TypeProto.Tensor.elem_type`.
    pub const ELEM_TYPE: u32 = 1;
    /// `TypeProto.Tensor.shape`.
    pub const SHAPE: u32 = 2;
}

/// Field numbers of `TypeProto.Sequence`.
pub mod type_proto_sequence {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(12);
    /// `TypeProto.Sequence.elem_type`.
    pub const ELEM_TYPE: u32 = 1;
}

/// Field numbers of `TypeProto.Map`.
pub mod type_proto_map {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(13);
    /// `TypeProto.Map.key_type`.
    pub const KEY_TYPE: u32 = 1;
    /// `TypeProto.Map.value_type`.
    pub const VALUE_TYPE: u32 = 2;
}

/// Field numbers of `TypeProto.Optional`.
pub mod type_proto_optional {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(14);
    /// `TypeProto.Optional.elem_type`.
    pub const ELEM_TYPE: u32 = 1;
}

/// Field numbers of `TypeProto.SparseTensor`.
pub mod type_proto_sparse_tensor {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(15);
    /// `TypeProto.SparseTensor.elem_type`.
    pub const ELEM_TYPE: u32 = 1;
    /// `TypeProto.SparseTensor.shape`.
    pub const SHAPE: u32 = 2;
}

/// Field numbers of `TypeProto.Opaque`.
pub mod type_proto_opaque {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(16);
    /// `TypeProto.Opaque.domain`.
    pub const DOMAIN: u32 = 1;
    /// `TypeProto.Opaque.name`.
    pub const NAME: u32 = 2;
}

/// Field numbers of `TensorShapeProto`.
pub mod tensor_shape_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(17);
    /// `TensorShapeProto.dim`.
    pub const DIM: u32 = 1;
}

/// Field numbers of `TensorShapeProto.Dimension`.
pub mod tensor_shape_proto_dimension {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(18);
    /// `TensorShapeProto.Dimension.dim_value`.
    pub const DIM_VALUE: u32 = 1;
    /// `TensorShapeProto.Dimension.dim_param`.
    pub const DIM_PARAM: u32 = 2;
    /// `TensorShapeProto.Dimension.denotation`.
    pub const DENOTATION: u32 = 3;
}

/// Field numbers of `FunctionProto`.
pub mod function_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(19);
    /// `FunctionProto.name`.
    pub const NAME: u32 = 1;
    /// `FunctionProto.input`.
    pub const INPUT: u32 = 4;
    /// `FunctionProto.output`.
    pub const OUTPUT: u32 = 5;
    /// `FunctionProto.attribute`.
    pub const ATTRIBUTE: u32 = 6;
    /// `FunctionProto.node`.
    pub const NODE: u32 = 7;
    /// `FunctionProto.doc_string`.
    pub const DOC_STRING: u32 = 8;
    /// `FunctionProto.opset_import`.
    pub const OPSET_IMPORT: u32 = 9;
    /// `FunctionProto.domain`.
    pub const DOMAIN: u32 = 10;
    /// `FunctionProto.attribute_proto`.
    pub const ATTRIBUTE_PROTO: u32 = 11;
    /// `FunctionProto.value_info`.
    pub const VALUE_INFO: u32 = 12;
    /// `FunctionProto.overload`.
    pub const OVERLOAD: u32 = 13;
    /// `FunctionProto.metadata_props`.
    pub const METADATA_PROPS: u32 = 14;
}

/// Field numbers of `TensorAnnotation`.
pub mod tensor_annotation {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(20);
    /// `TensorAnnotation.tensor_name`.
    pub const TENSOR_NAME: u32 = 1;
    /// `TensorAnnotation.quant_parameter_tensor_names`.
    pub const QUANT_PARAMETER_TENSOR_NAMES: u32 = 2;
}

/// Field numbers of `TrainingInfoProto`.
pub mod training_info_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(21);
    /// `TrainingInfoProto.initialization`.
    pub const INITIALIZATION: u32 = 1;
    /// `TrainingInfoProto.algorithm`.
    pub const ALGORITHM: u32 = 2;
    /// `TrainingInfoProto.initialization_binding`.
    pub const INITIALIZATION_BINDING: u32 = 3;
    /// `TrainingInfoProto.update_binding`.
    pub const UPDATE_BINDING: u32 = 4;
}

/// Field numbers of `DeviceConfigurationProto`.
pub mod device_configuration_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(22);
    /// `DeviceConfigurationProto.name`.
    pub const NAME: u32 = 1;
    /// `DeviceConfigurationProto.num_devices`.
    pub const NUM_DEVICES: u32 = 2;
    /// `DeviceConfigurationProto.device`.
    pub const DEVICE: u32 = 3;
}

/// Field numbers of `NodeDeviceConfigurationProto`.
pub mod node_device_configuration_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(23);
    /// `NodeDeviceConfigurationProto.configuration_id`.
    pub const CONFIGURATION_ID: u32 = 1;
    /// `NodeDeviceConfigurationProto.sharding_spec`.
    pub const SHARDING_SPEC: u32 = 2;
    /// `NodeDeviceConfigurationProto.pipeline_stage`.
    pub const PIPELINE_STAGE: u32 = 3;
}

/// Field numbers of `ShardingSpecProto`.
pub mod sharding_spec_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(24);
    /// `ShardingSpecProto.tensor_name`.
    pub const TENSOR_NAME: u32 = 1;
    /// `ShardingSpecProto.device`.
    pub const DEVICE: u32 = 2;
    /// `ShardingSpecProto.index_to_device_group_map`.
    pub const INDEX_TO_DEVICE_GROUP_MAP: u32 = 3;
    /// `ShardingSpecProto.sharded_dim`.
    pub const SHARDED_DIM: u32 = 4;
}

/// Field numbers of `IntIntListEntryProto`.
pub mod int_int_list_entry_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(25);
    /// `IntIntListEntryProto.key`.
    pub const KEY: u32 = 1;
    /// `IntIntListEntryProto.value`.
    pub const VALUE: u32 = 2;
}

/// Field numbers of `ShardedDimProto`.
pub mod sharded_dim_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(26);
    /// `ShardedDimProto.axis`.
    pub const AXIS: u32 = 1;
    /// `ShardedDimProto.simple_sharding`.
    pub const SIMPLE_SHARDING: u32 = 2;
}

/// Field numbers of `SimpleShardedDimProto`.
pub mod simple_sharded_dim_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(27);
    /// `SimpleShardedDimProto.dim_value`.
    pub const DIM_VALUE: u32 = 1;
    /// `SimpleShardedDimProto.dim_param`.
    pub const DIM_PARAM: u32 = 2;
    /// `SimpleShardedDimProto.num_shards`.
    pub const NUM_SHARDS: u32 = 3;
}

/// Field numbers of `SequenceProto`.
pub mod sequence_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(28);
    /// `SequenceProto.name`.
    pub const NAME: u32 = 1;
    /// `SequenceProto.elem_type`.
    pub const ELEM_TYPE: u32 = 2;
    /// `SequenceProto.tensor_values`.
    pub const TENSOR_VALUES: u32 = 3;
    /// `SequenceProto.sparse_tensor_values`.
    pub const SPARSE_TENSOR_VALUES: u32 = 4;
    /// `SequenceProto.sequence_values`.
    pub const SEQUENCE_VALUES: u32 = 5;
    /// `SequenceProto.map_values`.
    pub const MAP_VALUES: u32 = 6;
    /// `SequenceProto.optional_values`.
    pub const OPTIONAL_VALUES: u32 = 7;
}

/// Field numbers of `MapProto`.
pub mod map_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(29);
    /// `MapProto.name`.
    pub const NAME: u32 = 1;
    /// `MapProto.key_type`.
    pub const KEY_TYPE: u32 = 2;
    /// `MapProto.keys`.
    pub const KEYS: u32 = 3;
    /// `MapProto.string_keys`.
    pub const STRING_KEYS: u32 = 4;
    /// `MapProto.values`.
    pub const VALUES: u32 = 5;
}

/// Field numbers of `OptionalProto`.
pub mod optional_proto {
    /// The message itself.
    pub const MESSAGE: crate::schema::MessageId = crate::schema::MessageId(30);
    /// `OptionalProto.name`.
    pub const NAME: u32 = 1;
    /// `OptionalProto.elem_type`.
    pub const ELEM_TYPE: u32 = 2;
    /// `OptionalProto.tensor_value`.
    pub const TENSOR_VALUE: u32 = 3;
    /// `OptionalProto.sparse_tensor_value`.
    pub const SPARSE_TENSOR_VALUE: u32 = 4;
    /// `OptionalProto.sequence_value`.
    pub const SEQUENCE_VALUE: u32 = 5;
    /// `OptionalProto.map_value`.
    pub const MAP_VALUE: u32 = 6;
    /// `OptionalProto.optional_value`.
    pub const OPTIONAL_VALUE: u32 = 7;
}
