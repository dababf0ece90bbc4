//! Programs in C with a library in them: what they are built from, and what they have to give.

use crate::product::{inputs, matrix};
use qcc_codegen::{Library, LibraryProduct, Output, ProductEnd, Storage, Targets, emit_library};
use qcc_kernels::{
    Activations, Epilogue, Matrix, Operands, Overlay, Planes, Pool, Product, Scalar,
};
use qcc_quant::panel::{PanelBits, PanelLayout, PanelScale};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

pub(crate) const STRICT: [&str; 6] =
    ["-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow"];

/// Products of every width, group, kind of scale and number of planes, with and without what is
/// optional; shapes where nothing is a multiple of anything.
pub(crate) fn products() -> Vec<LibraryProduct> {
    let mut products = Vec::new();
    let rows = [
        (PanelBits::B4, 32, 100, 40, PanelScale::F16, false, Planes::A8, false),
        (PanelBits::B4, 32, 100, 80, PanelScale::F16, false, Planes::A8, true),
        (PanelBits::B2, 16, 50, 33, PanelScale::F32, true, Planes::A15, false),
        (PanelBits::B3, 64, 200, 300, PanelScale::Bf16, false, Planes::A22, true),
        (PanelBits::B8, usize::MAX, 90, 5, PanelScale::F32, false, Planes::A8, false),
        (PanelBits::B4, 96, 1000, 64, PanelScale::F16, true, Planes::A8, true),
        (PanelBits::B4, 256, 3, 1, PanelScale::F32, false, Planes::A15, false),
    ];
    for (i, (bits, group, k, n, scale, zeros, planes, bias)) in rows.into_iter().enumerate() {
        let layout = PanelLayout::new(bits, group, k, n, scale, zeros).expect("a layout");
        let bias = bias.then(|| (0..n).map(|i| i as f32 / 8.0 - 1.0).collect());
        let name = format!("/layers.{}/\"q\" *\\/ü", i / 2);
        let matrix = matrix(layout, i + 3);
        products.push(LibraryProduct { name, matrix, planes, bias, overlay: None, end: None });
    }
    products
}

/// One weight in `every`, and columns without one.
fn overlay(n: usize, k: usize, every: usize) -> Arc<Overlay> {
    let is_there =
        |it: &usize| (it.wrapping_mul(2_654_435_761) >> 9).is_multiple_of(every) && it / k % 7 != 3;
    let places: Vec<usize> = (0..n * k).filter(is_there).collect();
    let starts: Vec<_> = (0..=n).map(|c| places.partition_point(|&it| it < c * k)).collect();
    let inputs: Vec<_> = places.iter().map(|it| (it % k) as u16).collect();
    let values: Vec<_> = places.iter().map(|it| (it % 101) as f32 / 16.0 - 3.0).collect();
    Arc::new(Overlay::new(k, &starts, &inputs, &values).expect("an overlay"))
}

/// Products with every end: some with outliers, whose kernels are the same, and as many without.
pub(crate) fn with_ends() -> Vec<LibraryProduct> {
    let mut products = Vec::new();
    for has_outliers in [true, false] {
        for (i, epilogue) in Epilogue::ALL.iter().enumerate() {
            let n = [70, 300][usize::from(has_outliers)];
            let layout = PanelLayout::new(PanelBits::B4, 32, 100, n, PanelScale::F16, i == 2);
            let bias: Vec<f32> = (0..n).map(|i| i as f32 / 8.0 - 1.0).collect();
            // Behind a bias of the product itself, and with one of the end's own.
            let own = *epilogue == Epilogue::None
                || (epilogue.reads_bias() && *epilogue != Epilogue::Bias && has_outliers);
            let epilogue = if own { epilogue.behind_bias() } else { *epilogue };
            let end = ProductEnd {
                epilogue,
                bias: epilogue.reads_bias().then(|| bias.clone()),
                factor: (epilogue.behind_bias() == Epilogue::SiluMul).then_some(0),
            };
            products.push(LibraryProduct {
                name: Epilogue::ALL[i].to_string(),
                matrix: matrix(layout.expect("a layout"), i + 40),
                planes: if i == 1 { Planes::A8 } else { Planes::A15 },
                bias: own.then_some(bias),
                overlay: has_outliers.then(|| overlay(n, 100, 5 + i)),
                end: (epilogue != Epilogue::None).then_some(end),
            });
        }
    }
    products
}

/// `extra`: with the end of the product.
fn expected(product: &LibraryProduct, x: &[f32], extra: Option<&[f32]>) -> Vec<u32> {
    let end = product.end.as_ref().filter(|_| extra.is_some());
    let mut epilogue = end.map_or(Epilogue::None, |it| it.epilogue);
    let bias = product.bias.as_ref().or(end.and_then(|it| it.bias.as_ref()));
    if bias.is_some() {
        epilogue = epilogue.with_bias();
    }
    let bias = bias.map(Vec::as_slice);
    let matrix: &Arc<Matrix> = &product.matrix;
    let (k, n) = (matrix.layout().k(), matrix.layout().n());
    let it = Product::new(Arc::clone(matrix), Arc::new(Scalar), product.planes, epilogue);
    let it = it.with_overlay(product.overlay.clone());
    let mut y = vec![0.0; x.len() / k * n];
    let operands = Operands { bias, extra };
    it.run(&Pool::new(1), &mut Activations::new(), x, operands, &mut y).expect("a product");
    y.into_iter().map(f32::to_bits).collect()
}

/// Activations: ordinary ones, and groups of zeros, tiny, infinite and undefined numbers.
fn activations(rows: usize, k: usize) -> Vec<f32> {
    let mut x = inputs(rows, k);
    for (i, row) in x.chunks_mut(k).enumerate() {
        match i % 5 {
            1 => row[k / 2] = f32::INFINITY,
            2 => row[k - 1] = f32::NAN,
            3 => row.fill(if i == 3 { 0.0 } else { 1e-31 }),
            _ => {}
        }
    }
    x
}

/// How a library is built and run.
pub(crate) struct Setting<'a> {
    /// Targets with commas between them.
    pub(crate) target: &'a str,
    pub(crate) storage: Storage,
    pub(crate) compiler: &'a str,
    pub(crate) link: &'a [&'a str],
    /// What runs programs: an emulator and its arguments.
    pub(crate) run: &'a [&'a str],
    /// How many products: those that are not run need not be many.
    pub(crate) count: usize,
    /// Those with ends instead.
    pub(crate) ends: bool,
}

impl Setting<'_> {
    /// Builds the program in `folder`, runs it, and gives its status.
    pub(crate) fn check(&self, folder: &Path) -> Option<i32> {
        self.build(folder).run(self.run).0
    }

    /// Builds the program in `folder`.
    pub(crate) fn build<'f>(&self, folder: &'f Path) -> Built<'f> {
        let mut products = if self.ends { with_ends() } else { products() };
        products.truncate(self.count);
        let targets = Targets::parse(self.target).expect("targets");
        let library = Library::new("model", &targets, self.storage, products.clone());
        let at = |name: &str| folder.join(name);
        fs::write(at("model.h"), library.header("model.qpk")).expect("written");
        let object = emit_library(&library, Output::Object).expect("an object");
        fs::write(at("model.o"), object).expect("written");
        let mut weights = "-".into();
        if self.storage == Storage::File {
            weights = at("model.qpk").into_os_string();
            library.write_weights(&mut fs::File::create(&weights).expect("made")).expect("written");
        }
        let (mut cases, mut want) = (Vec::new(), Vec::new());
        for (i, product) in products.iter().enumerate() {
            for (rows, parts, how) in
                [(1_u32, 1_u32, 0_u32), (7, 1, 0), (2, 3, 1), (20, 2, 1), (23, 40, 0)]
            {
                let layout = product.matrix.layout();
                let x = activations(rows as usize, layout.k());
                let extra: Vec<f32> =
                    (0..rows as usize * layout.n()).map(|i| (i % 13) as f32 / 4.0 - 1.0).collect();
                let hows = [how, how + 2, how + 2 + 4];
                let count = if product.end.is_some() { 3 } else { 1 };
                for how in &hows[..count] {
                    let head = [i as u32, rows, parts, *how];
                    cases.extend(head.iter().flat_map(|it| it.to_le_bytes()));
                    cases.extend(x.iter().flat_map(|it| it.to_le_bytes()));
                    let extra = (how & 2 != 0).then_some(&extra[..]);
                    cases.extend(extra.unwrap_or(&[]).iter().flat_map(|it| it.to_le_bytes()));
                    want.push((i, rows, expected(product, &x, extra)));
                }
            }
        }
        fs::write(at("cases"), cases).expect("written");

        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/c/products.c");
        let mut link = Command::new(self.compiler);
        link.arg("-std=c99").args(STRICT).arg("-I").arg(folder).arg("-o").arg(at("program"));
        let output =
            link.arg(source).arg(at("model.o")).args(self.link).output().expect("a compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Built { folder, target: self.target.to_owned(), products, weights, want }
    }
}

/// A program with a library in it.
pub(crate) struct Built<'f> {
    folder: &'f Path,
    target: String,
    products: Vec<LibraryProduct>,
    weights: OsString,
    /// Product, rows and results of each case.
    want: Vec<(usize, u32, Vec<u32>)>,
}

impl Built<'_> {
    /// Runs the program, in an emulator if one is given, and compares. Gives the status, and what
    /// it says: of versions the one that was picked, then all that ran; or the feature that is
    /// missing.
    pub(crate) fn run(&self, emulator: &[&str]) -> (Option<i32>, String) {
        let at = |name: &str| self.folder.join(name);
        let mut run = match emulator {
            [] => Command::new(at("program")),
            [emulator, more @ ..] => {
                let mut run = Command::new(emulator);
                run.args(more).arg(at("program"));
                run
            }
        };
        run.arg(&self.weights).args([at("cases"), at("results")]);
        let output = run.output().expect("started");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(3) {
            println!("{}: {text}", self.target);
            return (Some(3), text.trim().lines().last().unwrap_or_default().to_owned());
        }
        assert!(output.status.success(), "{}: {} {text}", self.target, output.status);
        let bytes = fs::read(at("results")).expect("results");
        let mut results = bytes.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it));
        for (product, rows, want) in &self.want {
            let n = self.products[*product].matrix.layout().n();
            for (i, want) in want.iter().enumerate() {
                let got = results.next().expect("a result");
                let same =
                    got == *want || f32::from_bits(got).is_nan() && f32::from_bits(*want).is_nan();
                assert!(
                    same,
                    "{} product {product} of {rows} rows: row {}, column {}: {} for {}",
                    self.target,
                    i / n,
                    i % n,
                    f32::from_bits(got),
                    f32::from_bits(*want)
                );
            }
        }
        assert_eq!(results.next(), None);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs the program on CPUs of an emulator; of each what the program says is told.
    pub(crate) fn run_on(&self, emulator: &str, cpus: &[(&str, &str)]) {
        for (cpu, want) in cpus {
            let status = if want.ends_with("missing") { 3 } else { 0 };
            let said = self.run(&[emulator, "-cpu", cpu]);
            assert_eq!(said, (Some(status), (*want).to_owned()), "{} on {cpu}", self.target);
        }
    }
}
