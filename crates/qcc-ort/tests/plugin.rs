//! The library in ONNX Runtime, by `tools/py/plugin.py`.

use ort_sys::{OrtApi, OrtApiBase};
use std::ffi::{CStr, c_char};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::LazyLock;

/// The library that cargo built beside this program.
fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.with_file_name("libqcc_ort.so");
    assert!(beside.exists(), "{} is missing", beside.display());
    beside
}

#[test]
fn sessions_of_onnx_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = std::env::var_os("QCC_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| root.join(".venv/bin/python"));
    let found = Command::new(&python).args(["-c", "import onnx, onnxruntime"]).output();
    if !found.is_ok_and(|it| it.status.success()) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "QCC_PYTHON has no onnxruntime");
        let why = "QCC_PYTHON names no Python with the onnxruntime package";
        // What a test prints is shown only if it fails; this is not.
        let _ = writeln!(std::io::stderr(), "not run here: the plug-in in ONNX Runtime: {why}");
        return;
    }
    let done = Command::new(&python)
        .arg(root.join("tools/py/plugin.py"))
        .arg("--lib")
        .arg(library())
        .output();
    let Ok(done) = done else { panic!("{} does not start", python.display()) };
    let output = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{output}{}", String::from_utf8_lossy(&done.stderr));
}

/// Functions of a runtime of version 1.20.
static OLD: LazyLock<OrtApi> = LazyLock::new(ort_sys::stub::api);

extern "system" fn old(wish: u32) -> *const OrtApi {
    if wish <= 20 { &raw const *OLD } else { ptr::null() }
}

#[test]
#[allow(unsafe_code)]
fn an_old_runtime_is_told_what_is_needed() {
    let base = OrtApiBase { GetApi: old, GetVersionString: version };
    let (mut factories, mut count) = ([ptr::null_mut(); 4], 77);
    // SAFETY: as ONNX Runtime calls it.
    unsafe {
        let out = factories.as_mut_ptr();
        let made =
            qcc_ort::CreateEpFactories(c"qcc".as_ptr(), &base, ptr::null(), out, 4, &raw mut count);
        let registered = qcc_ort::RegisterCustomOps(ptr::null_mut(), &base);
        for status in [made, registered] {
            assert!(!status.0.is_null());
            let text = CStr::from_ptr((OLD.GetErrorMessage)(status.0)).to_str();
            let want = "qcc: the plug-in needs ONNX Runtime 1.24 or newer; this is 1.20.1";
            assert_eq!(text, Ok(want));
            (OLD.ReleaseStatus)(status.0);
        }
    }
    assert!(factories[0].is_null() && count == 0);
}

/// What a runtime that is no runtime gives.
extern "system" fn too_old(_: u32) -> *const OrtApi {
    ptr::null()
}

extern "system" fn version() -> *const c_char {
    c"1.20.1".as_ptr()
}

#[test]
#[allow(unsafe_code)]
fn a_runtime_that_is_too_old_gets_nothing() {
    let base = OrtApiBase { GetApi: too_old, GetVersionString: version };
    let (mut factories, mut count) = ([ptr::null_mut(); 4], 77);
    for base in [&raw const base, ptr::null()] {
        // SAFETY: as ONNX Runtime calls it.
        let status = unsafe {
            let out = factories.as_mut_ptr();
            qcc_ort::CreateEpFactories(c"qcc".as_ptr(), base, ptr::null(), out, 4, &raw mut count)
        };
        // There is nothing to make a status with.
        assert!(status.0.is_null() && factories[0].is_null() && count == 0);
        // SAFETY: as ONNX Runtime calls it; nothing is done without functions.
        unsafe {
            assert!(qcc_ort::ReleaseEpFactory(ptr::null_mut()).0.is_null());
            assert!(qcc_ort::RegisterCustomOps(ptr::null_mut(), base).0.is_null());
        }
    }
}
