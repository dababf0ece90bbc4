//! Functions of ONNX Runtime, found through `OrtApiBase`.

use crate::abi::EpApi;
use ort_sys::{
    OrtApi, OrtApiBase, OrtErrorCode, OrtKeyValuePairs, OrtLogger, OrtLoggingLevel, OrtStatusPtr,
};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// Version of the interface that is used.
const NEEDED: u32 = ort_sys::ORT_API_VERSION;

/// What every version since 1.0 has: enough to report an error.
const OLDEST: u32 = 1;

/// The functions of a runtime. They live as long as the process uses the library.
#[derive(Clone, Copy)]
pub(crate) struct Api {
    raw: &'static OrtApi,
}

/// Why a callback did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    code: OrtErrorCode,
    text: String,
}

impl Failure {
    /// A model or an option that is wrong.
    pub(crate) fn wrong(text: impl Into<String>) -> Self {
        Self { code: OrtErrorCode::ORT_INVALID_ARGUMENT, text: text.into() }
    }

    /// The same with the name of the node that it is about.
    pub(crate) fn of_node(self, name: &str) -> Self {
        Self { text: format!("node '{name}': {}", self.text), ..self }
    }

    /// Something else.
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self { code: OrtErrorCode::ORT_FAIL, text: text.into() }
    }
}

/// Calls a function of the interface whose result is a status: `ort!(api, Name(arguments))`.
///
/// Arguments are handles that the runtime gave to the callback that is running, or pointers to
/// variables of the caller.
macro_rules! ort {
    ($api:expr, $name:ident ( $($arg:expr),* $(,)? )) => {{
        let api = $api;
        // SAFETY: the function is of the version that was asked for, and its arguments are what
        // the head of the macro says.
        let status = unsafe { (api.raw().$name)($($arg),*) };
        api.check(status)
    }};
}
pub(crate) use ort;

impl Api {
    /// The functions of the version that is needed.
    ///
    /// # Errors
    /// A status that says which version the runtime has; null if there is not even that.
    ///
    /// # Safety
    /// `base` is null or leads to the structure that the runtime gives to its plug-ins.
    pub(crate) unsafe fn negotiate(base: *const OrtApiBase) -> Result<Self, OrtStatusPtr> {
        let null = OrtStatusPtr(ptr::null_mut());
        // SAFETY: what the caller promises.
        let Some(base) = (unsafe { base.as_ref() }) else { return Err(null) };
        // SAFETY: a function of the structure; it takes any version.
        let raw = unsafe { (base.GetApi)(NEEDED).as_ref() };
        if let Some(raw) = raw {
            return Ok(Self { raw });
        }
        // SAFETY: a function of the structure.
        let version = unsafe { text((base.GetVersionString)()) };
        // SAFETY: as above. The members that are used below are in every version.
        let oldest = unsafe { (base.GetApi)(OLDEST).as_ref() };
        let failure = Failure::other(format!(
            "the plug-in needs ONNX Runtime 1.{NEEDED} or newer; this is {}",
            version.unwrap_or("older"),
        ));
        Err(oldest.map_or(null, |raw| Self { raw }.status(Err(failure))))
    }

    /// The table of functions.
    pub(crate) fn raw(&self) -> &'static OrtApi {
        self.raw
    }

    /// Those for execution providers.
    pub(crate) fn ep(&self) -> Result<&'static EpApi, Failure> {
        // SAFETY: the runtime keeps the table; the structure here is the beginning of it.
        let ep = unsafe { (self.raw.GetEpApi)().cast::<EpApi>().as_ref() };
        ep.ok_or_else(|| Failure::other("this ONNX Runtime takes no execution providers"))
    }

    /// What a function gave back, freed.
    pub(crate) fn check(&self, status: OrtStatusPtr) -> Result<(), Failure> {
        if status.0.is_null() {
            return Ok(());
        }
        // SAFETY: a status that is not null has a code and a message, and is ours to free.
        let (code, message) = unsafe {
            let message = text((self.raw.GetErrorMessage)(status.0)).unwrap_or("").to_owned();
            let code = (self.raw.GetErrorCode)(status.0);
            (self.raw.ReleaseStatus)(status.0);
            (code, message)
        };
        Err(Failure { code, text: message })
    }

    /// The status for a result.
    pub(crate) fn status(&self, result: Result<(), Failure>) -> OrtStatusPtr {
        let Err(Failure { code, text }) = result else { return OrtStatusPtr(ptr::null_mut()) };
        let text = c_string(&format!("qcc: {text}"));
        // SAFETY: the message is copied.
        unsafe { (self.raw.CreateStatus)(code, text.as_ptr()) }
    }

    /// Runs the body of a callback: what it gives, or how it panicked, as a status.
    pub(crate) fn guard(&self, body: impl FnOnce() -> Result<(), Failure>) -> OrtStatusPtr {
        let done = catch_unwind(AssertUnwindSafe(body));
        self.status(done.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Failure::other(format!("a bug: {}", text.unwrap_or("a panic"))))
        }))
    }

    /// Writes a line to a log.
    pub(crate) fn log(&self, logger: *const OrtLogger, level: OrtLoggingLevel, line: &str) {
        if logger.is_null() {
            return;
        }
        let line = c_string(line);
        // A line that cannot be written is lost, as it is without a log.
        let _ = ort!(
            self,
            Logger_LogMessage(
                logger,
                level,
                line.as_ptr(),
                c"qcc".as_ptr().cast(),
                0,
                c"qcc".as_ptr()
            )
        );
    }

    /// Keys and values of a list, which is freed if `owned`.
    pub(crate) fn pairs(&self, list: *mut OrtKeyValuePairs) -> BTreeMap<String, String> {
        let (mut keys, mut values, mut count) = (ptr::null(), ptr::null(), 0);
        if list.is_null() {
            return BTreeMap::new();
        }
        // SAFETY: the list is one of the runtime; it gives `count` keys and values, which live
        // until the list is freed, after they are copied.
        unsafe {
            (self.raw.GetKeyValuePairs)(list, &raw mut keys, &raw mut values, &raw mut count);
            let pair = |i| {
                let (key, value) = (text(*keys.add(i))?, text(*values.add(i))?);
                Some((key.to_owned(), value.to_owned()))
            };
            let pairs = (0..count).filter_map(pair).collect();
            (self.raw.ReleaseKeyValuePairs)(list);
            pairs
        }
    }
}

/// A text for C; a zero within it ends it.
pub(crate) fn c_string(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or("");
    CString::new(text).unwrap_or_default()
}

/// A text of C, if it is one and UTF-8.
///
/// # Safety
/// The pointer is null or leads to a text that ends with zero and lives as long as it is used.
pub(crate) unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a str> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: what the caller promises.
    unsafe { CStr::from_ptr(pointer) }.to_str().ok()
}
