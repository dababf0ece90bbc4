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
//! `kb_run_many` quantizes `x` once for all weights of the same K and group.
//!
//! The environment may name an instruction set (`QCC_KB_ISA=avx2`, say; `scalar` is plain Rust)
//! and the planes of activations (`QCC_KB_PLANES=a15`). For a name that is none, or that of an
//! instruction set that there are no kernels of here, functions that create return NULL and say
//! why on the error stream.

mod settings;
mod weights;

use qcc_kernels::{Activations, Epilogue, Matrix, Operands, Pool, Product, Share};
use settings::Settings;
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::slice;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

static SETTINGS: LazyLock<Result<Settings, String>> = LazyLock::new(Settings::of_environment);
static POOL: LazyLock<RwLock<Pool>> = LazyLock::new(|| RwLock::new(Pool::new(1)));

thread_local! {
    static ACTIVATIONS: RefCell<Activations> = RefCell::default();
}

/// What a handle points at; null if there are no kernels as the environment asks for.
fn boxed(matrix: Matrix) -> *mut c_void {
    let made = SETTINGS.as_ref().map_err(Clone::clone).and_then(|settings| {
        let source = settings.source.clone();
        let product = Product::new(Arc::new(matrix), source, settings.planes, Epilogue::None);
        settings.allow(&product).map(|()| product)
    });
    match made {
        Ok(product) => Box::into_raw(Box::new(product)).cast(),
        Err(error) => {
            eprintln!("qcc: {error}");
            ptr::null_mut()
        }
    }
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
    let (Ok(r), Ok(m)) = (usize::try_from(r), usize::try_from(m)) else { return };
    if m == 0 || x.is_null() {
        return;
    }
    let mut rest = Vec::with_capacity(r);
    for i in 0..r {
        // SAFETY: what the caller promises.
        let (product, y) = unsafe { (product(*handles.add(i)), *ys.add(i)) };
        let Some(product) = product.filter(|_| !y.is_null()) else { continue };
        // SAFETY: as above.
        let y = unsafe { slice::from_raw_parts_mut(y, m * product.layout().n()) };
        rest.push(Share { product, operands: Operands::default(), y, factor: None });
    }
    let pool = POOL.read().unwrap_or_else(PoisonError::into_inner);
    while let Some(first) = rest.first() {
        let (acts, k) = (first.product.act_layout(), first.product.layout().k());
        let is_alike = |it: &Share<'_>| it.product.act_layout().serves(&acts);
        let (mut alike, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_alike);
        rest = others;
        // SAFETY: as above.
        let x = unsafe { slice::from_raw_parts(x, m * k) };
        let done = ACTIVATIONS.with_borrow_mut(|room| {
            room.quantize_on(&*pool, acts, x);
            Product::run_all(&*pool, room, &mut alike)
        });
        if done.is_err() {
            alike.iter_mut().for_each(|it| it.y.fill(f32::NAN));
        }
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
    fn products_of_the_same_rows_are_those_of_each() {
        let (k, m, shapes) = (96, 3, [(40, 4, 32), (33, 4, 32), (17, 2, 16), (64, 4, 32)]);
        let numbers = |n: usize| (0..n).map(|i| ((i * 31) % 17) as f32 - 8.0).collect::<Vec<_>>();
        let (x, mut single, mut many) = (numbers(m * k), Vec::new(), Vec::new());
        let mut handles = Vec::new();
        for (n, bits, group) in shapes {
            let (w, mut y) = (numbers(n * k), vec![0.0; m * n]);
            // SAFETY: as many elements as the shapes say.
            #[allow(unsafe_code)]
            unsafe {
                let h = kb_create_f32(k as c_long, n as c_long, bits, group, w.as_ptr());
                kb_run(h, m as c_long, x.as_ptr(), y.as_mut_ptr());
                handles.push(h);
            }
            many.push(vec![f32::NAN; m * n]);
            single.push(y);
        }
        let ys: Vec<*mut f32> = many.iter_mut().map(Vec::as_mut_ptr).collect();
        // SAFETY: as above; handles are given back once.
        #[allow(unsafe_code)]
        unsafe {
            let count = handles.len() as c_long;
            kb_run_many(handles.as_ptr(), count, m as c_long, x.as_ptr(), ys.as_ptr());
            handles.into_iter().for_each(|it| kb_destroy(it));
        }
        assert_eq!(many, single);
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
