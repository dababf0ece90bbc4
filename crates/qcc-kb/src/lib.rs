//! Low-bit products with a C interface: `libqcc_kb.so`.
//!
//! ```c
//! const char *kb_name(void);
//! void *kb_create(long K, long N, int bits, int group,
//!                 const uint8_t *codes,   // [N][K], one code per byte
//!                 const float *scales,    // [N][ceil(K / group)]
//!                 const uint8_t *zeros);  // the same, or NULL: 2^(bits - 1)
//! void *kb_create_f32(long K, long N, int bits, int group, const float *w);  // [N][K], rounded
//! void  kb_run(void *h, long M, const float *x, float *y);                   // [M][K], [M][N]
//! void  kb_run_many(void **hs, long R, long M, const float *x, float **ys);  // the same x
//! void  kb_set_threads(int n);                                               // of the process
//! size_t kb_bytes(void *h);                                                  // packed
//! void  kb_destroy(void *h);
//! ```
//!
//! `bits` is 2, 3, 4 or 8, `group` 16, a multiple of 32, or at least K. Functions that create
//! return NULL for what cannot be packed; `kb_run` fills `y` with NaN if there is no kernel.
//!
//! The environment may name an instruction set (`QCC_KB_ISA=avx2`, say; `scalar` is plain Rust)
//! and the planes of activations (`QCC_KB_PLANES=a15`).

mod weights;

use qcc_codegen::{Jit, KernelCache};
use qcc_kernels::{
    Activations, Epilogue, Isa, KernelSource, Matrix, Operands, Planes, Pool, Product, Scalar,
};
use std::cell::RefCell;
use std::env;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::slice;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

static SOURCE: LazyLock<Arc<dyn KernelSource>> = LazyLock::new(source);
static PLANES: LazyLock<Planes> = LazyLock::new(|| setting("QCC_KB_PLANES").unwrap_or(Planes::A8));
static POOL: LazyLock<RwLock<Pool>> = LazyLock::new(|| RwLock::new(Pool::new(1)));

thread_local! {
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

/// Kernels for the CPU at hand, else those of plain Rust.
fn source() -> Arc<dyn KernelSource> {
    let wish = setting::<Isa>("QCC_KB_ISA");
    let jit = || {
        let jit = Jit::new().ok()?;
        let jit = match wish {
            Some(isa) => jit.with_isa(isa).ok()?,
            None => jit,
        };
        let jit = match KernelCache::of_user() {
            Some(cache) => jit.with_cache(cache),
            None => jit,
        };
        jit.ready().ok().map(|()| jit)
    };
    let jit = if wish == Some(Isa::Scalar) { None } else { jit() };
    jit.map_or_else(|| Arc::new(Scalar) as Arc<dyn KernelSource>, |jit| Arc::new(jit))
}

/// What a handle points at.
fn boxed(matrix: Matrix) -> *mut c_void {
    let product = Product::new(Arc::new(matrix), Arc::clone(&SOURCE), *PLANES, Epilogue::None);
    Box::into_raw(Box::new(product)).cast()
}

/// The product of a handle.
///
/// # Safety
/// The handle is of this library and not destroyed.
#[allow(unsafe_code)]
unsafe fn product<'a>(handle: *mut c_void) -> Option<&'a Product> {
    // SAFETY: what the caller promises; null is no product.
    unsafe { handle.cast::<Product>().as_ref() }
}

/// The name of the library.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn kb_name() -> *const c_char {
    c"qcc".as_ptr()
}

/// Packs a weight of codes.
///
/// # Safety
/// The pointers lead to as many elements as the head of the library says.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kb_create(
    k: c_long,
    n: c_long,
    bits: c_int,
    group: c_int,
    codes: *const u8,
    scales: *const f32,
    zeros: *const u8,
) -> *mut c_void {
    let Some(shape) = weights::Shape::new(k, n, bits, group) else { return ptr::null_mut() };
    if codes.is_null() || scales.is_null() {
        return ptr::null_mut();
    }
    let count = shape.n * shape.groups();
    // SAFETY: what the caller promises.
    let (codes, scales, zeros) = unsafe {
        (
            slice::from_raw_parts(codes, shape.n * shape.k),
            slice::from_raw_parts(scales, count),
            (!zeros.is_null()).then(|| slice::from_raw_parts(zeros, count)),
        )
    };
    shape.pack(codes, scales, zeros).map_or(ptr::null_mut(), boxed)
}

/// Rounds a weight to codes with one scale per group, and packs it.
///
/// # Safety
/// `w` leads to N times K floats.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kb_create_f32(
    k: c_long,
    n: c_long,
    bits: c_int,
    group: c_int,
    w: *const f32,
) -> *mut c_void {
    let Some(shape) = weights::Shape::new(k, n, bits, group) else { return ptr::null_mut() };
    if w.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: what the caller promises.
    let w = unsafe { slice::from_raw_parts(w, shape.n * shape.k) };
    let (codes, scales) = shape.round(w);
    shape.pack(&codes, &scales, None).map_or(ptr::null_mut(), boxed)
}

/// `y[M][N] = x[M][K] W^T`.
///
/// # Safety
/// The handle is of this library and not destroyed; `x` and `y` lead to as many floats.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kb_run(handle: *mut c_void, m: c_long, x: *const f32, y: *mut f32) {
    // SAFETY: what the caller promises.
    let (product, Ok(m)) = (unsafe { product(handle) }, usize::try_from(m)) else { return };
    let Some(product) = product.filter(|_| m > 0 && !x.is_null() && !y.is_null()) else { return };
    let layout = product.layout();
    // SAFETY: what the caller promises.
    let (x, y) = unsafe {
        (slice::from_raw_parts(x, m * layout.k()), slice::from_raw_parts_mut(y, m * layout.n()))
    };
    let pool = POOL.read().unwrap_or_else(PoisonError::into_inner);
    let done =
        ACTIVATIONS.with_borrow_mut(|acts| product.run(&*pool, acts, x, Operands::default(), y));
    if done.is_err() {
        y.fill(f32::NAN);
    }
}

/// `kb_run` of R handles with the same `x`.
///
/// # Safety
/// As `kb_run`; the arrays have R elements.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kb_run_many(
    handles: *const *mut c_void,
    r: c_long,
    m: c_long,
    x: *const f32,
    ys: *const *mut f32,
) {
    if handles.is_null() || ys.is_null() {
        return;
    }
    for i in 0..usize::try_from(r).unwrap_or(0) {
        // SAFETY: what the caller promises.
        unsafe { kb_run(*handles.add(i), m, x, *ys.add(i)) };
    }
}

/// Threads of products from now on. Not within a product.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub extern "C" fn kb_set_threads(n: c_int) {
    let threads = usize::try_from(n).unwrap_or(1).max(1);
    let mut pool = POOL.write().unwrap_or_else(PoisonError::into_inner);
    if pool.threads() != threads {
        *pool = Pool::new(threads);
    }
}

/// Bytes of a packed weight.
///
/// # Safety
/// The handle is of this library and not destroyed.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kb_bytes(handle: *mut c_void) -> usize {
    // SAFETY: what the caller promises.
    unsafe { product(handle) }.map_or(0, |product| product.matrix().bytes().len())
}

/// Gives a weight back.
///
/// # Safety
/// The handle is of this library and not destroyed yet.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kb_destroy(handle: *mut c_void) {
    if !handle.is_null() {
        // SAFETY: what the caller promises: made by `boxed`.
        drop(unsafe { Box::from_raw(handle.cast::<Product>()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Products of a weight with unit vectors are its columns, to the precision of activations.
    fn columns(bits: c_int, group: c_int, threads: c_int) {
        let (k, n) = (70, 37);
        let w: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 997) as f32 / 500.0 - 1.0).collect();
        let x: Vec<f32> = (0..k * k).map(|i| if i % k == i / k { 2.0 } else { 0.0 }).collect();
        let mut y = vec![f32::NAN; k * n];
        let mut many = [vec![f32::NAN; k * n], vec![f32::NAN; k * n]];
        kb_set_threads(threads);
        // SAFETY: as many elements as the shapes say.
        #[allow(unsafe_code)]
        let bytes = unsafe {
            let h = kb_create_f32(k as c_long, n as c_long, bits, group, w.as_ptr());
            assert!(!h.is_null());
            kb_run(h, k as c_long, x.as_ptr(), y.as_mut_ptr());
            let ys = [many[0].as_mut_ptr(), many[1].as_mut_ptr()];
            kb_run_many([h, h].as_ptr(), 2, k as c_long, x.as_ptr(), ys.as_ptr());
            let bytes = kb_bytes(h);
            kb_destroy(h);
            bytes
        };
        assert!(bytes > n * k * bits as usize / 8);
        assert!(many.iter().all(|it| *it == y));
        let step = 1.1 / ((1 << (bits - 1)) - 1).max(1) as f32;
        for (row, y) in y.chunks_exact(n).enumerate() {
            for (column, y) in y.iter().enumerate() {
                let want = 2.0 * w[column * k + row];
                assert!((y - want).abs() <= 1.1 * step + 0.01, "{bits} {row} {column}: {y} {want}");
            }
        }
    }

    #[test]
    fn products_through_the_c_interface() {
        for bits in [2, 3, 4, 8] {
            for group in [16, 32, 64, 128] {
                columns(bits, group, 1 + group / 64);
            }
        }
    }

    #[test]
    fn what_cannot_be_packed_is_null() {
        let (codes, scales) = ([1u8; 64], [1f32; 4]);
        let create = |k, n, bits, group| {
            // SAFETY: shapes that are not refused have no more elements.
            #[allow(unsafe_code)]
            let made = unsafe {
                kb_create(k, n, bits, group, codes.as_ptr(), scales.as_ptr(), ptr::null())
            };
            // SAFETY: made above, or null.
            #[allow(unsafe_code)]
            unsafe {
                kb_destroy(made);
            }
            !made.is_null()
        };
        assert!(create(32, 2, 4, 32));
        let bad = [(0, 2, 4, 32), (32, -1, 4, 32), (32, 2, 5, 32), (64, 1, 4, 24), (32, 2, 4, 0)];
        for (k, n, bits, group) in bad {
            assert!(!create(k, n, bits, group), "{k} {n} {bits} {group}");
        }
        // SAFETY: nothing is done with null.
        #[allow(unsafe_code)]
        unsafe {
            assert!(kb_create(32, 2, 4, 32, ptr::null(), scales.as_ptr(), ptr::null()).is_null());
            kb_run(ptr::null_mut(), 1, ptr::null(), ptr::null_mut());
            assert_eq!(kb_bytes(ptr::null_mut()), 0);
        }
    }
}
