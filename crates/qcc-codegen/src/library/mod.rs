//! Products of a model as a library for C: an object file with the kernels, and what calls them.
//!
//! [`Library`] says what goes in. [`Library::header`] is the C header, [`Library::write_weights`]
//! the file of packed weights, [`emit_library`](crate::emit_library) the code. The interface is
//! described in `docs/aot.md`; [`abi`] has its numbers.

pub(crate) mod abi;
mod header;
mod names;
mod shape;

pub use names::identifier;
pub(crate) use shape::{FIELD, MOST_PANELS, Shape};

use crate::{Target, Targets};
use qcc_kernels::{Epilogue, KernelSpec, Matrix, Overlay, Planes};
use qcc_quant::panel::PanelLayout;
use std::io::{self, Write};
use std::sync::Arc;

/// What records of a file of weights are aligned to: pages.
const PAGE: u64 = 4096;

/// Where packed weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the object, as constants.
    Inline,
    /// In a file beside it, which the caller maps.
    File,
}

/// A product: `y[rows][n] = x[rows][k] W^T + bias`.
#[derive(Clone, Debug)]
pub struct LibraryProduct {
    /// What it is called in the model.
    pub name: String,
    /// The weight.
    pub matrix: Arc<Matrix>,
    /// How exactly activations are kept.
    pub planes: Planes,
    /// `[n]`, added to each row.
    pub bias: Option<Vec<f32>>,
    /// Weights beside those of the matrix, which multiply activations that are not quantized.
    pub overlay: Option<Arc<Overlay>>,
    /// What the model does with the result, behind [`Self::bias`] if there is one; functions of
    /// their own do it as well.
    pub end: Option<ProductEnd>,
}

/// What comes behind a product. It adds no bias if the product has one of its own.
#[derive(Clone, Debug)]
pub struct ProductEnd {
    /// Which it is.
    pub epilogue: Epilogue,
    /// `[n]`, where it is a bias.
    pub bias: Option<Vec<f32>>,
    /// The product whose results it reads, by its position, where that is known.
    pub factor: Option<usize>,
}

/// What a library is made of.
#[derive(Debug)]
pub struct Library {
    prefix: String,
    targets: Targets,
    storage: Storage,
    entries: Vec<Entry>,
    /// Bytes of the file of weights.
    file_bytes: u64,
}

/// A product with its symbol and place.
#[derive(Debug)]
pub(crate) struct Entry {
    pub product: LibraryProduct,
    /// Symbol of the function; two more follow from it.
    pub symbol: String,
    /// Where its record begins in the file of weights.
    pub at: u64,
    /// Products of the same number read the same quantized rows.
    pub class: u32,
    pub shape: Shape,
}

impl Library {
    /// A library of products, those of one matrix sharing its bytes, whose symbols begin with
    /// `prefix`, made a C identifier.
    #[must_use]
    pub fn new(
        prefix: &str,
        targets: &Targets,
        storage: Storage,
        products: Vec<LibraryProduct>,
    ) -> Self {
        let prefix = identifier(prefix);
        let symbols = names::symbols(&prefix, products.iter().map(|it| it.name.as_str()));
        let (mut classes, mut file_bytes) = (Vec::new(), 0);
        let class = |it: &LibraryProduct| Shape::new(it.matrix.layout(), it.planes, false).class();
        // Products that may share rows read the same ones, with or without outliers.
        let keeping = products.iter().filter(|it| it.overlay.is_some());
        let keeping: Vec<[u64; 4]> = keeping.map(class).collect();
        let mut places: Vec<(Arc<Matrix>, u64)> = Vec::new();
        let entries = products.into_iter().zip(symbols).map(|(product, symbol)| {
            let layout = product.matrix.layout();
            let class = class(&product);
            let shape = Shape::new(layout, product.planes, keeping.contains(&class));
            let class = classes.iter().position(|it| *it == class).unwrap_or_else(|| {
                classes.push(class);
                classes.len() - 1
            });
            let known = places.iter().find(|it| Arc::ptr_eq(&it.0, &product.matrix));
            let at = known.map_or(file_bytes, |it| it.1);
            if known.is_none() {
                file_bytes += record_bytes(layout);
                places.push((Arc::clone(&product.matrix), at));
            }
            Entry { product, symbol, at, class: class as u32, shape }
        });
        let entries = entries.collect();
        Self { prefix, targets: targets.clone(), storage, entries, file_bytes }
    }

    /// What symbols begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What it has a version of its code for; none is called `native`.
    #[must_use]
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Where weights lie.
    #[must_use]
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Name and symbol of each product, in their order.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|it| (it.product.name.as_str(), it.symbol.as_str()))
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The first product of each weight, in the order of the file.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Entry> {
        let mut next = 0;
        self.entries.iter().filter(move |entry| {
            let is_first = entry.at == next;
            if is_first {
                next += record_bytes(entry.product.matrix.layout());
            }
            is_first
        })
    }

    /// Bytes of all packed weights with their headers: what a file of them has.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes of weights in an object: of panels, if they are not in a file, and of outliers.
    pub(crate) fn object_bytes(&self) -> u64 {
        // Behind the last eight columns there is a round that nobody counts.
        let of = |it: &Overlay| {
            let it = it.parts();
            it.order.len() + 4 * it.starts.len() + 6 * 8 * (it.values.len() + 1)
        };
        let overlays = self.entries.iter().filter_map(|it| it.product.overlay.as_deref());
        let outliers: usize = overlays.map(of).sum();
        let panels = if self.storage == Storage::Inline { self.file_bytes } else { 0 };
        panels + outliers as u64
    }

    /// Writes the file of weights: of each product the record `QPK1`, filled up to pages.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_weights(&self, out: &mut dyn Write) -> io::Result<()> {
        for Entry { product, .. } in self.records() {
            let layout = product.matrix.layout();
            let mut first = [0; PanelLayout::FIRST_PANEL];
            first[..PanelLayout::HEADER].copy_from_slice(&layout.header());
            out.write_all(&first)?;
            out.write_all(product.matrix.bytes())?;
            let rest = record_bytes(layout) - (first.len() + layout.bytes()) as u64;
            out.write_all(&first.map(|_| 0)[..rest as usize])?;
        }
        Ok(())
    }
}

impl Entry {
    /// Whether it is the product alone (`false`), or with what the model does with it (`true`):
    /// the forms that there are functions of.
    pub(crate) fn forms(&self) -> impl Iterator<Item = bool> + use<> {
        [false, true].into_iter().take(1 + usize::from(self.product.end.is_some()))
    }

    /// What is done to results before they are stored.
    pub(crate) fn epilogue(&self, is_end: bool) -> Epilogue {
        let LibraryProduct { end, bias, .. } = &self.product;
        let end = end.as_ref().filter(|_| is_end).map_or(Epilogue::None, |it| it.epilogue);
        if bias.is_some() { end.with_bias() } else { end }
    }

    /// What [`Self::epilogue`] adds.
    pub(crate) fn bias(&self, is_end: bool) -> Option<&Vec<f32>> {
        let LibraryProduct { end, bias, .. } = &self.product;
        let end = end.as_ref().filter(|_| is_end).and_then(|it| it.bias.as_ref());
        bias.as_ref().or(end)
    }

    /// What comes behind outliers, if there are some: not in the kernel then.
    pub(crate) fn end_behind_outliers(&self, is_end: bool) -> Option<Epilogue> {
        self.product.overlay.as_ref().map(|_| self.epilogue(is_end))
    }

    /// The kernel for so many rows and tiles; none if no panel has as many tiles.
    pub(crate) fn spec(
        &self,
        target: &Target,
        rows: u8,
        tiles: u8,
        is_end: bool,
    ) -> Option<KernelSpec> {
        let layout = self.product.matrix.layout();
        let last = layout.tiles(layout.panels() - 1);
        let exists = usize::from(tiles) == last || (tiles == 2 && layout.panels() > 1);
        let spec = KernelSpec::new(layout, rows, tiles, self.product.planes, target.best());
        let epilogue = match self.product.overlay {
            Some(_) => Epilogue::None,
            None => self.epilogue(is_end),
        };
        exists.then(|| spec.with_epilogue(epilogue))
    }
}

/// Bytes from one record to the next.
fn record_bytes(layout: &PanelLayout) -> u64 {
    (PanelLayout::FIRST_PANEL as u64 + layout.bytes() as u64).next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_quant::panel::{PanelBits, PanelScale};

    /// A weight whose bytes are 1, 2, ...
    pub(super) fn matrix(k: usize, n: usize) -> Arc<Matrix> {
        let layout = PanelLayout::new(PanelBits::B4, 32, k, n, PanelScale::F16, false).unwrap();
        let bytes: Vec<u8> = (0..layout.bytes()).map(|i| (i % 255) as u8 + 1).collect();
        Arc::new(Matrix::from_bytes(layout, &bytes).unwrap())
    }

    pub(super) fn library(storage: Storage) -> Library {
        let product = |name: &str, k, n, bias| LibraryProduct {
            name: name.into(),
            matrix: matrix(k, n),
            planes: Planes::A8,
            bias,
            overlay: None,
            end: None,
        };
        let products = vec![
            product("/layers.0/q", 64, 48, None),
            product("/layers.0/k", 64, 16, Some(vec![0.5; 16])),
            product("/layers.0/down", 128, 64, None),
        ];
        let targets = Targets::parse("x86-64-v4+avx512vnni").unwrap();
        Library::new("model.q4", &targets, storage, products)
    }

    #[test]
    fn records_are_whole_pages_that_read_back() {
        let library = library(Storage::File);
        let mut file = Vec::new();
        library.write_weights(&mut file).unwrap();
        assert_eq!(file.len() as u64, library.weight_bytes());
        for entry in library.entries() {
            let record = &file[entry.at as usize..];
            let layout = PanelLayout::from_header(record).unwrap();
            assert_eq!(layout, *entry.product.matrix.layout());
            let panels = &record[PanelLayout::FIRST_PANEL..][..layout.bytes()];
            assert_eq!(panels, entry.product.matrix.bytes());
            assert!(entry.at.is_multiple_of(PAGE));
        }
    }

    #[test]
    fn objects_hold_outliers_and_products_beside_them_keep_rows() {
        let overlay = Overlay::new(64, &[vec![0], vec![2; 48]].concat(), &[1, 2], &[0.5; 2]);
        let overlay = Some(Arc::new(overlay.unwrap()));
        let product = |k, overlay| LibraryProduct {
            name: "a".into(),
            matrix: matrix(k, 48),
            planes: Planes::A8,
            bias: None,
            overlay,
            end: None,
        };
        let products = vec![product(64, None), product(64, overlay), product(96, None)];
        let targets = Targets::parse("x86-64").unwrap();
        let library = Library::new("p", &targets, Storage::File, products.clone());
        // Two panels; two rounds, and the one behind them.
        let outliers = 2 * 32 + 9 * 4 + 3 * 8 * 6;
        assert_eq!(library.object_bytes(), outliers);
        let inline = Library::new("p", &targets, Storage::Inline, products);
        assert_eq!(inline.object_bytes(), inline.weight_bytes() + outliers);
        let kept: Vec<bool> = library.entries().iter().map(|it| it.shape.floats_at > 0).collect();
        assert_eq!(kept, [true, true, false]);
        let classes: Vec<u32> = library.entries().iter().map(|it| it.class).collect();
        assert_eq!(classes, [0, 0, 1]);
    }

    #[test]
    fn products_of_one_matrix_share_its_bytes() {
        let matrix = matrix(64, 48);
        let product = |name: &str, matrix: &Arc<Matrix>| LibraryProduct {
            name: name.into(),
            matrix: Arc::clone(matrix),
            planes: Planes::A8,
            bias: None,
            overlay: None,
            end: None,
        };
        let other = tests::matrix(64, 48);
        let products = vec![product("a", &matrix), product("b", &other), product("c", &matrix)];
        let targets = Targets::parse("x86-64").unwrap();
        let library = Library::new("p", &targets, Storage::File, products);
        let places: Vec<u64> = library.entries().iter().map(|it| it.at).collect();
        let bytes = record_bytes(matrix.layout());
        assert_eq!((places, library.weight_bytes()), (vec![0, bytes, 0], 2 * bytes));
        assert_eq!(library.records().count(), 2);
    }

    #[test]
    fn what_reads_the_same_rows_has_one_number() {
        let library = library(Storage::Inline);
        let classes: Vec<u32> = library.entries().iter().map(|it| it.class).collect();
        assert_eq!(classes, [0, 0, 1]);
        let specs = |i: usize, tiles| {
            let spec = library.entries()[i].spec(library.targets().least(), 3, tiles, false);
            spec.map(|it| it.to_string())
        };
        let name = |text: &str| Some(format!("qcc_mm_b4_g32_m3_{text}_avx512vnni"));
        assert_eq!((specs(0, 1), specs(0, 2)), (name("t1_f16_a8"), name("t2_f16_a8")));
        assert_eq!((specs(1, 1), specs(1, 2)), (name("t1_f16_a8_bias"), None));
        assert_eq!((specs(2, 1), specs(2, 2)), (None, name("t2_f16_a8")));
    }
}
