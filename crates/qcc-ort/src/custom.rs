//! The operators of `ai.qcc` as custom operators: an operator that is registered stands for the
//! function of the same name in a model.
//!
//! A node cannot be handed back to the function, so that everything the function allows is
//! computed here: weights that are no constants are packed in every run, and blocks that no
//! kernel has are multiplied as floats. Both are slow, which a warning says.

use crate::api::{Api, Failure, c_string, ort};
use crate::kernels::Kernels;
use crate::linear::{Group, Linear, Room, Workers, output, rows};
use crate::options::Options;
use crate::tensor::Tensor;
use crate::weight::{Beside, Form, Operands, Shape, WIDTHS, pack};
use ort_sys::{
    ONNXTensorElementDataType, OrtApi, OrtApiBase, OrtCustomOp,
    OrtCustomOpInputOutputCharacteristic, OrtKernelContext, OrtKernelInfo, OrtLoggingLevel,
    OrtMemType, OrtSessionOptions, OrtStatusPtr,
};
use qcc_kernels::{Epilogue, Overlay, OverlayError, Planes};
use qcc_quant::codes::decode;
use qcc_quant::layout::Outliers;
use qcc_quant::panel::{GroupedWeight, PanelError};
use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The version of `OrtCustomOp` whose members are set here.
const OP_VERSION: u32 = 18;

/// `OrtCustomOp` with what belongs to it. The runtime has a pointer to the first member.
#[repr(C)]
struct Op {
    head: OrtCustomOp,
    api: Api,
    name: CString,
    bits: u8,
    beside: Beside,
    /// Type of activations and results.
    kind: ONNXTensorElementDataType,
}

/// An operator of a session.
struct Kernel {
    api: Api,
    shape: Shape,
    beside: Beside,
    planes: Planes,
    room: Arc<Room>,
    /// None: the weight is no constant.
    product: Option<Multiply>,
}

/// A weight that is ready.
enum Multiply {
    Panels(Group),
    /// `[n][k]`.
    Floats(Vec<f32>),
}

/// `RegisterCustomOps`.
///
/// # Safety
/// As the interface says.
pub(crate) unsafe fn register(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: what the caller promises.
    let api = match unsafe { Api::negotiate(base) } {
        Ok(api) => api,
        Err(status) => return status,
    };
    api.guard(|| {
        let domain = domain(api)?;
        ort!(&api, AddCustomOpDomain(options, ptr::with_exposed_provenance_mut(domain)))
    })
}

/// The address of the domain with all operators. Sessions may use it at any time, so there is one
/// per runtime, which stays.
fn domain(api: Api) -> Result<usize, Failure> {
    static MADE: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = ptr::from_ref(api.raw()).addr();
    if let Some((_, domain)) = made.iter().find(|it| it.0 == runtime) {
        return Ok(*domain);
    }
    let mut domain = ptr::null_mut();
    ort!(&api, CreateCustomOpDomain(c"ai.qcc".as_ptr(), &raw mut domain))?;
    for bits in WIDTHS {
        for beside in Beside::ALL {
            for kind in [
                ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
            ] {
                let op = Box::into_raw(Box::new(Op::new(api, bits, beside, kind)));
                ort!(&api, CustomOpDomain_Add(domain, op.cast_const().cast()))?;
            }
        }
    }
    let address = domain.expose_provenance();
    made.push((runtime, address));
    Ok(address)
}

impl Op {
    fn new(api: Api, bits: u8, beside: Beside, kind: ONNXTensorElementDataType) -> Self {
        let head = OrtCustomOp {
            version: OP_VERSION,
            CreateKernel: None,
            GetName: Some(name),
            GetExecutionProviderType: Some(provider),
            GetInputType: Some(input_type),
            GetInputTypeCount: Some(inputs),
            GetOutputType: Some(output_type),
            GetOutputTypeCount: Some(outputs),
            KernelCompute: None,
            KernelDestroy: Some(destroy),
            GetInputCharacteristic: Some(required),
            GetOutputCharacteristic: Some(required),
            GetInputMemoryType: Some(memory),
            GetVariadicInputMinArity: Some(one),
            GetVariadicInputHomogeneity: Some(one),
            GetVariadicOutputMinArity: Some(one),
            GetVariadicOutputHomogeneity: Some(one),
            CreateKernelV2: Some(create),
            KernelComputeV2: Some(compute),
            InferOutputShapeFn: None,
            GetStartVersion: Some(one),
            GetEndVersion: Some(last_version),
            GetMayInplace: None,
            ReleaseMayInplace: None,
            GetAliasMap: None,
            ReleaseAliasMap: None,
        };
        let name = c_string(&format!("MatMulQ{bits}{}", beside.suffix()));
        Self { head, api, name, bits, beside, kind }
    }
}

impl Kernel {
    fn new(op: &Op, info: *const OrtKernelInfo) -> Result<Self, Failure> {
        let api = op.api;
        let size = |name: &str| {
            let (key, mut value) = (c_string(name), 0i64);
            ort!(&api, KernelInfoGetAttribute_int64(info, key.as_ptr(), &raw mut value))?;
            let size = usize::try_from(value).ok().filter(|it| *it > 0);
            size.ok_or_else(|| Failure::wrong(format!("{name} is not a size")))
        };
        let (n, k, block) = (size("N")?, size("K")?, size("block_size")?);
        let shape = Shape { form: Form::Dense, n, k, bits: op.bits, block };
        let mut list = ptr::null_mut();
        ort!(&api, KernelInfo_GetConfigEntries(info, &raw mut list))?;
        let options = Options::read(&api.pairs(list))?;
        let mut logger = ptr::null();
        ort!(&api, KernelInfo_GetLogger(info, &raw mut logger))?;
        let warn = |line: &str| {
            api.log(logger, OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING, line);
        };
        let room = room(&options)?;
        // The body multiplies floats.
        let planes = options.planes.unwrap_or(Planes::A22);
        let beside = op.beside;
        let mut kernel = Self { api, shape, beside, planes, room, product: None };
        let constant = |at: usize| {
            let (mut constant, mut value) = (0, ptr::null());
            ort!(
                &api,
                KernelInfoGetConstantInput_tensor(info, at, &raw mut constant, &raw mut value)
            )?;
            if constant == 0 || value.is_null() {
                return Ok(None);
            }
            // SAFETY: constants live as long as the kernel.
            unsafe { Tensor::new(&api, value) }.map(Some)
        };
        let mut weight = Vec::with_capacity(beside.inputs() - 1);
        for at in 1..beside.inputs() {
            weight.extend(constant(at)?);
        }
        if weight.len() + 1 == beside.inputs() {
            let (product, error) = kernel.multiply(&weight)?;
            if let Some(error) = error {
                warn(&format!("qcc: a slow product: {error}"));
            }
            kernel.product = Some(product);
        } else {
            warn("qcc: a weight that is no constant is packed in every run");
        }
        if let Some(line) = kernel.room.kernels().news() {
            warn(&line);
        }
        Ok(kernel)
    }

    /// Makes a weight of all inputs but the activations ready; also why it is slow, if it is.
    fn multiply(&self, weight: &[Tensor<'_>]) -> Result<(Multiply, Option<String>), Failure> {
        let Shape { n, k, block, .. } = self.shape;
        let [codes, scales, more @ ..] = weight else {
            return Err(Failure::wrong("an operand is missing"));
        };
        let (scales, bytes) = (scales.floats()?, codes.bytes()?);
        let (got, want) = (bytes.len(), self.shape.bytes()?);
        if got != want {
            return Err(PanelError::Length { what: "codes", got, want }.into());
        }
        let codes = |range| {
            let part = bytes.get(range).map(Cow::Borrowed);
            part.ok_or_else(|| Failure::wrong("the codes are too short"))
        };
        let (zeros, outliers) = match (self.beside, more) {
            (Beside::Zeros, [zeros]) => (Some(zeros.bytes()?), None),
            (Beside::Outliers, [scales, places]) => {
                let read = Outliers::read((n, k, block), &scales.floats()?, places.bytes()?);
                (None, Some(read?))
            }
            _ => (None, None),
        };
        let outliers = outliers.as_ref();
        let operands = Operands { codes: &codes, scales: &scales, zeros, outliers };
        // An overlay names inputs in 16 bits.
        let overlay = match outliers {
            Some(_) if k > Overlay::MOST_INPUTS => Err(OverlayError::Inputs(k).to_string()),
            _ => Ok(()),
        };
        let has_panels = self.shape.has_panels().map_err(|error| error.to_string());
        if let Err(error) = has_panels.and(overlay) {
            let weight = self.shape.unpack(&operands, 0..n)?;
            return Ok((Multiply::Floats(floats(&weight, outliers)), Some(error)));
        }
        let packed = pack(self.shape, &operands)?;
        let linear = Linear::new(packed, self.room.kernels(), self.planes, None, Epilogue::None)?;
        Ok((Multiply::Panels(Group::new(vec![linear.into()])?), None))
    }

    fn compute(&self, context: *mut OrtKernelContext) -> Result<(), Failure> {
        let api = &self.api;
        let input = |at: usize| {
            let mut value = ptr::null();
            ort!(api, KernelContext_GetInput(context, at, &raw mut value))?;
            // SAFETY: inputs live and stay as they are while the operator runs.
            unsafe { Tensor::new(api, value) }
        };
        let fresh;
        let product = match &self.product {
            Some(product) => product,
            None => {
                let weight = (1..self.beside.inputs()).map(input);
                fresh = self.multiply(&weight.collect::<Result<Vec<_>, _>>()?)?.0;
                &fresh
            }
        };
        match product {
            Multiply::Panels(group) => group.compute(api, context, &self.room, (0, None), &[0]),
            Multiply::Floats(weight) => {
                let (x, Shape { n, k, .. }) = (input(0)?, self.shape);
                let rows = rows(&x, k)?;
                let mut y = output(api, context, 0, &x, n, rows)?;
                let floats = x.floats()?;
                let dots = floats
                    .chunks_exact(k)
                    .flat_map(|x| weight.chunks_exact(k).map(move |w| dot(x, w)));
                y.floats().iter_mut().zip(dots).for_each(|(y, dot)| *y = dot);
                y.finish();
                Ok(())
            }
        }
    }
}

/// A weight as floats.
fn floats(weight: &GroupedWeight, outliers: Option<&Outliers>) -> Vec<f32> {
    let (k, group) = (weight.k, weight.group);
    let groups = k.div_ceil(group);
    let middle = weight.bits.middle();
    let value = |(i, &code): (usize, &u8)| {
        let at = i / k * groups + i % k / group;
        let zero = weight.weight.zeros.as_ref().map_or(f32::from(middle), |it| it[at]);
        (f32::from(code) - zero) * weight.weight.scales[at]
    };
    let codes = &weight.weight.codes;
    let mut values: Vec<f32> = codes.iter().enumerate().map(value).collect();
    for row in 0..outliers.map_or(0, |_| weight.n) {
        for (column, scale) in outliers.iter().flat_map(|it| it.row(row)) {
            let at = row * k + column;
            values[at] = decode(codes[at], scale, middle);
        }
    }
    values
}

fn dot(x: &[f32], w: &[f32]) -> f32 {
    x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32
}

/// What all operators share that are there and have the same options: each is made by itself, and
/// nothing tells of which session.
fn room(options: &Options) -> Result<Arc<Room>, Failure> {
    static ROOMS: Mutex<Vec<(Options, Weak<Room>)>> = Mutex::new(Vec::new());
    let mut rooms = ROOMS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut same = rooms.iter().filter(|it| it.0 == *options);
    if let Some(room) = same.find_map(|it| it.1.upgrade()) {
        return Ok(room);
    }
    let room = Arc::new(Room::new(Workers::new(options.threads), Kernels::of(options)?));
    rooms.retain(|it| it.1.strong_count() > 0);
    rooms.push((options.clone(), Arc::downgrade(&room)));
    Ok(room)
}

/// The name of the node that a kernel is of.
fn node_name(api: &Api, info: *const OrtKernelInfo) -> Result<String, Failure> {
    let mut len = 0;
    ort!(api, KernelInfo_GetNodeName(info, ptr::null_mut(), &raw mut len))?;
    let mut name = vec![0u8; len];
    ort!(api, KernelInfo_GetNodeName(info, name.as_mut_ptr().cast(), &raw mut len))?;
    let name = CStr::from_bytes_until_nul(&name).map(CStr::to_string_lossy);
    Ok(name.map(Cow::into_owned).unwrap_or_default())
}

unsafe extern "system" fn name(op: *const OrtCustomOp) -> *const c_char {
    // SAFETY: the runtime gives back an operator of `domain`, which stays.
    unsafe { (*op.cast::<Op>()).name.as_ptr() }
}

/// Null: that of the CPU.
unsafe extern "system" fn provider(_: *const OrtCustomOp) -> *const c_char {
    ptr::null()
}

unsafe extern "system" fn input_type(
    op: *const OrtCustomOp,
    at: usize,
) -> ONNXTensorElementDataType {
    match at {
        // SAFETY: the runtime gives back an operator of `domain`, which stays.
        0 => unsafe { (*op.cast::<Op>()).kind },
        2 => ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED,
        // SAFETY: as above.
        3 if unsafe { (*op.cast::<Op>()).beside } == Beside::Outliers => {
            ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
        }
        _ => ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
    }
}

unsafe extern "system" fn inputs(op: *const OrtCustomOp) -> usize {
    // SAFETY: the runtime gives back an operator of `domain`, which stays.
    unsafe { (*op.cast::<Op>()).beside }.inputs()
}

unsafe extern "system" fn output_type(
    op: *const OrtCustomOp,
    _: usize,
) -> ONNXTensorElementDataType {
    // SAFETY: the runtime gives back an operator of `domain`, which stays.
    unsafe { (*op.cast::<Op>()).kind }
}

unsafe extern "system" fn outputs(_: *const OrtCustomOp) -> usize {
    1
}

unsafe extern "system" fn required(
    _: *const OrtCustomOp,
    _: usize,
) -> OrtCustomOpInputOutputCharacteristic {
    OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_REQUIRED
}

unsafe extern "system" fn memory(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

unsafe extern "system" fn one(_: *const OrtCustomOp) -> c_int {
    1
}

/// A later version of the domain may mean something else.
unsafe extern "system" fn last_version(_: *const OrtCustomOp) -> c_int {
    1
}

unsafe extern "system" fn create(
    op: *const OrtCustomOp,
    _: *const OrtApi,
    info: *const OrtKernelInfo,
    out: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: the runtime gives back an operator of `domain`, which stays.
    let op = unsafe { &*op.cast::<Op>() };
    op.api.guard(|| {
        let kernel = Kernel::new(op, info).map_err(|error| match node_name(&op.api, info) {
            Ok(name) => error.of_node(&name),
            Err(_) => error,
        })?;
        let kernel = Box::new(kernel);
        // SAFETY: a place for the result, as the interface says.
        unsafe { out.write(Box::into_raw(kernel).cast()) };
        Ok(())
    })
}

unsafe extern "system" fn compute(
    kernel: *mut c_void,
    context: *mut OrtKernelContext,
) -> OrtStatusPtr {
    // SAFETY: the runtime gives back a kernel of `create`.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    kernel.api.guard(|| kernel.compute(context))
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    if kernel.is_null() {
        return;
    }
    // SAFETY: the runtime gives back a kernel of `create`, once.
    let kernel = unsafe { Box::from_raw(kernel.cast::<Kernel>()) };
    let api = kernel.api;
    // Nobody can be told if this fails.
    let _ = api.check(api.guard(|| {
        drop(kernel);
        Ok(())
    }));
}
