//! Nodes and values of a graph of ONNX Runtime, as long as a callback runs.

use crate::api::{Api, Failure, c_string, ort, text};
use crate::constants::Part;
use crate::tensor::{Kind, Tensor};
use ort_sys::{
    OrtGraph, OrtNode, OrtOpAttr, OrtOpAttrType, OrtTensorTypeAndShapeInfo, OrtValueInfo,
};
use std::ffi::c_char;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::ptr;

/// A graph.
#[derive(Clone, Copy)]
pub(crate) struct Graph<'a> {
    api: &'a Api,
    raw: *const OrtGraph,
}

/// A node.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    api: &'a Api,
    raw: *const OrtNode,
}

/// What a node reads or gives.
#[derive(Clone, Copy)]
pub(crate) struct ValueInfo<'a> {
    api: &'a Api,
    raw: *const OrtValueInfo,
    graph: PhantomData<&'a OrtValueInfo>,
}

/// A text that a function of the graph gives.
fn name<'a>(
    call: impl FnOnce(*mut *const c_char) -> Result<(), Failure>,
) -> Result<&'a str, Failure> {
    let mut out = ptr::null();
    call(&raw mut out)?;
    // SAFETY: texts of a graph live as long as it does, that is longer than the callback.
    unsafe { text(out) }.ok_or_else(|| Failure::wrong("a name is not UTF-8"))
}

impl<'a> Graph<'a> {
    /// # Safety
    /// `raw` is a graph that the runtime lent to the running callback, for `'a`.
    pub(crate) unsafe fn new(api: &'a Api, raw: *const OrtGraph) -> Self {
        Self { api, raw }
    }

    /// The folder of the model, if it is a file.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let mut path = ptr::null();
        ort!(self.api, Graph_GetModelPath(self.raw, &raw mut path)).ok()?;
        // SAFETY: it lives as long as the graph.
        let path = unsafe { text(path.cast()) }.filter(|it| !it.is_empty())?;
        Path::new(path).parent().map(Path::to_owned)
    }

    /// All nodes, in an order in which they can run.
    pub(crate) fn nodes(&self) -> Result<Vec<Node<'a>>, Failure> {
        let mut count = 0;
        ort!(self.api, Graph_GetNumNodes(self.raw, &raw mut count))?;
        let mut nodes = vec![ptr::null(); count];
        ort!(self.api, Graph_GetNodes(self.raw, nodes.as_mut_ptr(), count))?;
        Ok(nodes.into_iter().map(|raw| Node { api: self.api, raw }).collect())
    }
}

impl<'a> Node<'a> {
    /// # Safety
    /// `raw` is a node that the runtime lent to the running callback, for `'a`.
    pub(crate) unsafe fn new(api: &'a Api, raw: *const OrtNode) -> Self {
        Self { api, raw }
    }

    pub(crate) fn raw(&self) -> *const OrtNode {
        self.raw
    }

    pub(crate) fn name(&self) -> Result<&'a str, Failure> {
        name(|out| ort!(self.api, Node_GetName(self.raw, out)))
    }

    pub(crate) fn op(&self) -> Result<&'a str, Failure> {
        name(|out| ort!(self.api, Node_GetOperatorType(self.raw, out)))
    }

    pub(crate) fn domain(&self) -> Result<&'a str, Failure> {
        name(|out| ort!(self.api, Node_GetDomain(self.raw, out)))
    }

    /// Version of its domain that its meaning is from.
    pub(crate) fn version(&self) -> Result<i32, Failure> {
        let mut version = 0;
        ort!(self.api, Node_GetSinceVersion(self.raw, &raw mut version))?;
        Ok(version)
    }

    /// What it reads; None where an input is left out.
    pub(crate) fn inputs(&self) -> Result<Vec<Option<ValueInfo<'a>>>, Failure> {
        let mut count = 0;
        ort!(self.api, Node_GetNumInputs(self.raw, &raw mut count))?;
        let mut values = vec![ptr::null(); count];
        ort!(self.api, Node_GetInputs(self.raw, values.as_mut_ptr(), count))?;
        Ok(values.into_iter().map(|raw| self.value(raw)).collect())
    }

    /// What it gives.
    pub(crate) fn outputs(&self) -> Result<Vec<Option<ValueInfo<'a>>>, Failure> {
        let mut count = 0;
        ort!(self.api, Node_GetNumOutputs(self.raw, &raw mut count))?;
        let mut values = vec![ptr::null(); count];
        ort!(self.api, Node_GetOutputs(self.raw, values.as_mut_ptr(), count))?;
        Ok(values.into_iter().map(|raw| self.value(raw)).collect())
    }

    /// What graphs inside it read from around it.
    pub(crate) fn implicit_inputs(&self) -> Result<Vec<Option<ValueInfo<'a>>>, Failure> {
        let mut count = 0;
        ort!(self.api, Node_GetNumImplicitInputs(self.raw, &raw mut count))?;
        let mut values = vec![ptr::null(); count];
        ort!(self.api, Node_GetImplicitInputs(self.raw, values.as_mut_ptr(), count))?;
        Ok(values.into_iter().map(|raw| self.value(raw)).collect())
    }

    fn value(&self, raw: *const OrtValueInfo) -> Option<ValueInfo<'a>> {
        (!raw.is_null()).then_some(ValueInfo { api: self.api, raw, graph: PhantomData })
    }

    /// An attribute that is an integer; None if it is not there.
    pub(crate) fn int(&self, attribute: &str) -> Result<Option<i64>, Failure> {
        self.number(attribute, OrtOpAttrType::ORT_OP_ATTR_INT)
    }

    /// An attribute that is a float; None if it is not there.
    pub(crate) fn float(&self, attribute: &str) -> Result<Option<f32>, Failure> {
        self.number(attribute, OrtOpAttrType::ORT_OP_ATTR_FLOAT)
    }

    /// An attribute that is some integers, `N` at most; None if it is not there.
    pub(crate) fn ints<const N: usize>(
        &self,
        attribute: &str,
    ) -> Result<Option<Vec<i64>>, Failure> {
        let Some(found) = self.attribute(attribute) else { return Ok(None) };
        let (mut values, mut len) = ([0i64; N], 0);
        let data = values.as_mut_ptr().cast();
        let kind = OrtOpAttrType::ORT_OP_ATTR_INTS;
        ort!(self.api, ReadOpAttr(found, kind, data, size_of_val(&values), &raw mut len))?;
        Ok(values.get(..len / size_of::<i64>()).map(<[i64]>::to_vec))
    }

    /// An attribute of a kind that is a `T`.
    fn number<T: Default>(
        &self,
        attribute: &str,
        kind: OrtOpAttrType,
    ) -> Result<Option<T>, Failure> {
        let Some(found) = self.attribute(attribute) else { return Ok(None) };
        let (mut value, mut len) = (T::default(), 0);
        let data = (&raw mut value).cast();
        ort!(self.api, ReadOpAttr(found, kind, data, size_of::<T>(), &raw mut len))?;
        Ok(Some(value))
    }

    fn attribute(&self, attribute: &str) -> Option<*const OrtOpAttr> {
        let (key, mut found) = (c_string(attribute), ptr::null());
        // An attribute that is not there is an error to some versions and null to others.
        let got = ort!(self.api, Node_GetAttributeByName(self.raw, key.as_ptr(), &raw mut found));
        got.is_ok().then_some(found).filter(|it| !it.is_null())
    }
}

impl<'a> ValueInfo<'a> {
    pub(crate) fn name(&self) -> Result<&'a str, Failure> {
        name(|out| ort!(self.api, GetValueInfoName(self.raw, out)))
    }

    /// Whether it is an initializer that nobody can override.
    pub(crate) fn is_constant(&self) -> Result<bool, Failure> {
        let mut constant = false;
        ort!(self.api, ValueInfo_IsConstantInitializer(self.raw, &raw mut constant))?;
        Ok(constant)
    }

    /// Whether it is a result of the graph.
    pub(crate) fn is_graph_output(&self) -> Result<bool, Failure> {
        let mut output = false;
        ort!(self.api, ValueInfo_IsGraphOutput(self.raw, &raw mut output))?;
        Ok(output)
    }

    /// The element type of a tensor.
    pub(crate) fn kind(&self) -> Result<Kind, Failure> {
        let Some(tensor) = self.tensor_info()? else { return Ok(Kind::Other) };
        let mut kind = 0i32;
        // The runtime may be newer than the names that this library has for types.
        ort!(self.api, GetTensorElementType(tensor, (&raw mut kind).cast()))?;
        Ok(Kind::of(kind))
    }

    /// The shape of a tensor, if all of it is known.
    pub(crate) fn dims(&self) -> Result<Option<Vec<usize>>, Failure> {
        let Some(tensor) = self.tensor_info()? else { return Ok(None) };
        let mut rank = 0;
        ort!(self.api, GetDimensionsCount(tensor, &raw mut rank))?;
        let mut dims = vec![0i64; rank];
        ort!(self.api, GetDimensions(tensor, dims.as_mut_ptr(), rank))?;
        Ok(dims.into_iter().map(|it| usize::try_from(it).ok()).collect())
    }

    fn tensor_info(&self) -> Result<Option<*const OrtTensorTypeAndShapeInfo>, Failure> {
        let (mut info, mut tensor) = (ptr::null(), ptr::null());
        ort!(self.api, GetValueInfoTypeInfo(self.raw, &raw mut info))?;
        if info.is_null() {
            return Ok(None);
        }
        ort!(self.api, CastTypeInfoToTensorInfo(info, &raw mut tensor))?;
        Ok(Some(tensor).filter(|it| !it.is_null()))
    }

    /// Where a constant lies, if that is a file named from `folder`, and whole bytes.
    pub(crate) fn file(&self, folder: &Path) -> Result<Option<Part>, Failure> {
        let mut info = ptr::null_mut();
        ort!(self.api, ValueInfo_GetExternalInitializerInfo(self.raw, &raw mut info))?;
        if info.is_null() {
            return Ok(None);
        }
        let raw = self.api.raw();
        // SAFETY: functions of what was given; the path is copied before it is freed.
        let (path, offset, len) = unsafe {
            let path = text((raw.ExternalInitializerInfo_GetFilePath)(info).cast());
            let path = path.map(|path| folder.join(path));
            let offset = (raw.ExternalInitializerInfo_GetFileOffset)(info);
            let len = (raw.ExternalInitializerInfo_GetByteSize)(info);
            (raw.ReleaseExternalInitializerInfo)(info);
            (path, u64::try_from(offset).ok(), len)
        };
        let kind = self.kind()?;
        let part = path.zip(offset).filter(|_| kind != Kind::Other);
        Ok(part.map(|(path, offset)| Part { path, offset, len, kind }))
    }

    /// The value of a constant.
    pub(crate) fn tensor(&self) -> Result<Tensor<'a>, Failure> {
        let mut value = ptr::null();
        ort!(self.api, ValueInfo_GetInitializerValue(self.raw, &raw mut value))?;
        // SAFETY: values of initializers live as long as the graph, or null.
        unsafe { Tensor::new(self.api, value) }
    }
}
