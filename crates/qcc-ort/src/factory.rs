//! The factory: what ONNX Runtime asks for devices and execution providers.

use crate::abi::{Ep, EpFactory, VERSION};
use crate::api::{Api, Failure, ort};
use crate::options::{Options, PROVIDER};
use crate::provider::Provider;
use ort_sys::{
    OrtApiBase, OrtEpDevice, OrtHardwareDevice, OrtHardwareDeviceType, OrtKeyValuePairs, OrtLogger,
    OrtSessionOptions, OrtStatusPtr,
};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};
use std::{ptr, slice};

/// [`PROVIDER`] for C.
pub(crate) const NAME: &CStr = c"QccExecutionProvider";

const _: () = assert!(NAME.to_bytes().len() == PROVIDER.len());

/// `EpFactory` with what belongs to it. The runtime has a pointer to the first member.
#[repr(C)]
struct Factory {
    head: EpFactory,
    api: Api,
}

impl Factory {
    fn new(api: Api) -> Self {
        let head = EpFactory {
            version: VERSION,
            name,
            vendor,
            supported_devices,
            create_ep,
            release_ep,
            vendor_id,
            own_version,
            validate_compiled_model: ptr::null(),
            create_allocator,
            release_allocator,
            create_data_transfer,
            is_stream_aware,
            create_stream: ptr::null(),
        };
        Self { head, api }
    }

    /// CPUs among the devices.
    ///
    /// # Safety
    /// As the interface says of `GetSupportedDevices`.
    unsafe fn devices(
        &mut self,
        devices: *const *const OrtHardwareDevice,
        count: usize,
        out: *mut *mut OrtEpDevice,
        most: usize,
        found: *mut usize,
    ) -> Result<(), Failure> {
        let (api, ep) = (self.api, self.api.ep()?);
        // SAFETY: what the caller promises.
        let devices = unsafe { array(devices, count) };
        let mut done = 0;
        for &device in devices {
            // SAFETY: a device of the runtime.
            let kind = unsafe { (api.raw().HardwareDevice_Type)(device) };
            if kind != OrtHardwareDeviceType::OrtHardwareDeviceType_CPU || done >= most {
                continue;
            }
            let (factory, mut made) = (&raw mut self.head, ptr::null_mut());
            // SAFETY: the factory is this one; there is no metadata.
            let status = unsafe {
                (ep.create_ep_device)(factory, device, ptr::null(), ptr::null(), &raw mut made)
            };
            api.check(status)?;
            // SAFETY: there is room for `most`.
            unsafe { out.add(done).write(made) };
            done += 1;
        }
        // SAFETY: what the caller promises.
        unsafe { found.write(done) };
        Ok(())
    }
}

/// The address of the factory. A session may give its provider back when the library is given back
/// already, so there is one per runtime, which stays, as the code does: see `build.rs`.
fn address(api: Api) -> usize {
    static MADE: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = ptr::from_ref(api.raw()).addr();
    if let Some((_, factory)) = made.iter().find(|it| it.0 == runtime) {
        return *factory;
    }
    let factory = Box::into_raw(Box::new(Factory::new(api))).expose_provenance();
    made.push((runtime, factory));
    factory
}

/// `CreateEpFactories`: the one factory of this library.
///
/// # Safety
/// As the interface says.
pub(crate) unsafe fn create(
    base: *const OrtApiBase,
    factories: *mut *mut EpFactory,
    most: usize,
    count: *mut usize,
) -> OrtStatusPtr {
    if !count.is_null() {
        // SAFETY: what the caller promises.
        unsafe { count.write(0) };
    }
    // SAFETY: what the caller promises.
    let api = match unsafe { Api::negotiate(base) } {
        Ok(api) => api,
        Err(status) => return status,
    };
    api.guard(|| {
        api.ep()?;
        if most == 0 || factories.is_null() || count.is_null() {
            return Err(Failure::wrong("no room for a factory"));
        }
        let factory = ptr::with_exposed_provenance_mut(address(api));
        // SAFETY: there is room for `most`. The head is the first member.
        unsafe {
            factories.write(factory);
            count.write(1);
        }
        Ok(())
    })
}

/// An array of C; none at null.
///
/// # Safety
/// The pointer leads to so many elements, or is null.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    if pointer.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: what the caller promises.
    unsafe { slice::from_raw_parts(pointer, count) }
}

/// Entries of the configuration of a session.
pub(crate) fn entries(
    api: &Api,
    options: *const OrtSessionOptions,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut list = ptr::null_mut();
    ort!(api, GetSessionOptionsConfigEntries(options, &raw mut list))?;
    Ok(api.pairs(list))
}

unsafe extern "system" fn name(_: *const EpFactory) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "system" fn vendor(_: *const EpFactory) -> *const c_char {
    c"qcc".as_ptr()
}

unsafe extern "system" fn vendor_id(_: *const EpFactory) -> u32 {
    0
}

unsafe extern "system" fn own_version(_: *const EpFactory) -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

unsafe extern "system" fn is_stream_aware(_: *const EpFactory) -> bool {
    false
}

/// Null: memory of the runtime.
unsafe extern "system" fn create_allocator(
    _: *mut EpFactory,
    _: *const c_void,
    _: *const OrtKeyValuePairs,
    out: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: a place for the result, as the interface says.
    unsafe { out.write(ptr::null_mut()) };
    OrtStatusPtr(ptr::null_mut())
}

unsafe extern "system" fn release_allocator(_: *mut EpFactory, _: *mut c_void) {}

/// Null: all is in memory of the CPU.
unsafe extern "system" fn create_data_transfer(
    _: *mut EpFactory,
    out: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: a place for the result, as the interface says.
    unsafe { out.write(ptr::null_mut()) };
    OrtStatusPtr(ptr::null_mut())
}

unsafe extern "system" fn supported_devices(
    this: *mut EpFactory,
    devices: *const *const OrtHardwareDevice,
    count: usize,
    out: *mut *mut OrtEpDevice,
    most: usize,
    found: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the runtime gives back a factory of `create`.
    let factory = unsafe { &mut *this.cast::<Factory>() };
    let api = factory.api;
    // SAFETY: what the interface says.
    api.guard(|| unsafe { factory.devices(devices, count, out, most, found) })
}

unsafe extern "system" fn create_ep(
    this: *mut EpFactory,
    _: *const *const OrtHardwareDevice,
    _: *const *const OrtKeyValuePairs,
    _: usize,
    options: *const OrtSessionOptions,
    logger: *const OrtLogger,
    out: *mut *mut Ep,
) -> OrtStatusPtr {
    // SAFETY: the runtime gives back a factory of `create`.
    let api = unsafe { (*this.cast::<Factory>()).api };
    api.guard(|| {
        let options = Options::read(&entries(&api, options)?)?;
        let provider = Provider::boxed(api, logger, options)?;
        // SAFETY: a place for the result, as the interface says.
        unsafe { out.write(provider) };
        Ok(())
    })
}

unsafe extern "system" fn release_ep(this: *mut EpFactory, ep: *mut Ep) {
    // SAFETY: the runtime gives back a factory of `create`.
    let api = unsafe { (*this.cast::<Factory>()).api };
    // Nobody can be told if this fails.
    let _ = api.check(api.guard(|| {
        // SAFETY: a provider of `create_ep`, not released.
        unsafe { Provider::release(ep) };
        Ok(())
    }));
}
