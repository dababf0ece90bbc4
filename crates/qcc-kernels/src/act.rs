//! Activations as planes of 8 bits.
//!
//! A row is cut in the groups of the weight. Of each group, with `amax = max |x|`:
//!
//! ```text
//! scale = amax / largest        a = round_half_even(x * (largest / amax))
//! a = 128^(p-1) a_0 + ... + a_(p-1)        a_0 in -127..=127, the others in -64..=63
//! ```
//!
//! where `largest` is [`Planes::largest`]. A group without an `amax` above 1e-30 is all zeros. A
//! group that holds a NaN or an infinity has the scale NaN, and so have all results it goes into.
//!
//! Relative error of a product of rows of 4096 with exact weights, groups of 32, normal
//! activations: 5.4e-3 with one plane, 4.2e-5 with two, 3.2e-7 with three.

mod lanes;
mod plain;
#[cfg(target_arch = "x86_64")]
mod wide;

pub(crate) use lanes::Lanes;

use crate::Planes;
use crate::abi::KernelArgs;
use crate::threads::Threads;
use pulp::Arch;
use qcc_quant::panel::{PanelBits, PanelLayout};

/// Groups whose largest value is not above it are zeros.
const TINY: f32 = 1e-30;

/// Bits of positive infinity: those of a NaN are above, those of all other magnitudes below.
const INFINITE: u32 = 0x7f80_0000;

/// `1.5 * 2^23`: adding it rounds magnitudes below 2^22 to integers, half to even.
const ROUNDER: f32 = 12_582_912.0;

/// Bytes between rows and planes beyond their length: rows of 4096 would all lie in the same sets
/// of the first cache.
const APART: usize = 64;

/// Fewer rows are quantized on the calling thread.
const SHARED_ROWS: usize = 8;

/// What activations are quantized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActLayout {
    k: usize,
    group: usize,
    groups: usize,
    bits: PanelBits,
    planes: Planes,
}

impl ActLayout {
    /// For products with a matrix.
    #[must_use]
    pub fn new(weight: &PanelLayout, planes: Planes) -> Self {
        let (k, group, groups) = (weight.k(), weight.group(), weight.stored_groups());
        Self { k, group, groups, bits: weight.bits(), planes }
    }

    /// Whether activations for `other` serve here as well: then they may be quantized once.
    #[must_use]
    pub fn serves(&self, other: &Self) -> bool {
        self == other
    }

    /// Bytes from one plane to the next.
    fn plane(&self) -> usize {
        (self.groups * self.group).next_multiple_of(APART) + APART
    }

    /// Bytes from one row to the next.
    fn row(&self) -> usize {
        self.planes.count() as usize * self.plane()
    }
}

/// Quantized rows. Keep it from one product to the next: it does not shrink.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    rows: usize,
    layout: Option<ActLayout>,
    lines: Vec<Line>,
    scales: Vec<f32>,
    sums: Vec<f32>,
    /// `[planes][rows][groups]`.
    starts: Vec<i32>,
    /// The rows as they came, for overlays.
    floats: Lanes,
}

/// What codes are aligned to.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read and written by pointers")] [i8; APART]);

/// Where quantized rows go. Distinct rows may be written at the same time.
#[derive(Clone, Copy)]
pub(crate) struct RowsOut {
    layout: ActLayout,
    rows: usize,
    codes: *mut i8,
    scales: *mut f32,
    sums: *mut f32,
    starts: *mut i32,
}

// SAFETY: the pointers are used in `RowsOut::quantize` only, whose callers see to it that no two
// threads have the same row.
#[allow(unsafe_code)]
unsafe impl Send for RowsOut {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for RowsOut {}

impl Activations {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows that were quantized.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What they were quantized for.
    #[must_use]
    pub fn layout(&self) -> Option<ActLayout> {
        self.layout
    }

    /// Quantizes rows `x[rows][k]`, on the calling thread.
    ///
    /// # Panics
    /// If `x` is not whole rows of `k`.
    pub fn quantize(&mut self, layout: ActLayout, x: &[f32]) {
        assert!(x.len().is_multiple_of(layout.k), "whole rows");
        let rows = x.len() / layout.k;
        let out = self.room(layout, rows);
        // SAFETY: all rows of the room, and nobody else has it.
        #[allow(unsafe_code)]
        unsafe {
            out.quantize(0..rows, x);
        }
    }

    /// The same, on several threads if there are enough rows.
    ///
    /// # Panics
    /// If `x` is not whole rows of `k`.
    pub fn quantize_on(&mut self, threads: &dyn Threads, layout: ActLayout, x: &[f32]) {
        assert!(x.len().is_multiple_of(layout.k), "whole rows");
        let rows = x.len() / layout.k;
        let out = self.room(layout, rows);
        let quantize = |range: std::ops::Range<usize>| {
            // SAFETY: the room is alive and borrowed, and each row is given to one thread.
            #[allow(unsafe_code)]
            unsafe {
                out.quantize(range, x);
            }
        };
        if rows < SHARED_ROWS {
            quantize(0..rows);
        } else {
            threads.run(rows, &quantize);
        }
    }

    /// Room for rows, whose content is that of earlier ones until they are quantized.
    pub(crate) fn room(&mut self, layout: ActLayout, rows: usize) -> RowsOut {
        self.rows = rows;
        self.layout = Some(layout);
        self.floats.clear();
        let grow = |len: usize| len.max(1);
        let (lines, groups) = (rows * layout.row() / APART, rows * layout.groups);
        if self.lines.len() < lines {
            self.lines.resize(grow(lines), Line([0; APART]));
        }
        if self.scales.len() < groups {
            self.scales.resize(grow(groups), 0.0);
            self.sums.resize(grow(groups), 0.0);
        }
        let starts = groups * layout.planes.count() as usize;
        if self.starts.len() < starts {
            self.starts.resize(grow(starts), 0);
        }
        RowsOut {
            layout,
            rows,
            codes: self.lines.as_mut_ptr().cast(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            starts: self.starts.as_mut_ptr(),
        }
    }

    /// Arguments of a kernel that name rows from `row` on; nothing else in them is set.
    pub(crate) fn args(&self, row: usize) -> KernelArgs {
        let mut args = KernelArgs::empty();
        let Some(layout) = self.layout.filter(|_| row < self.rows) else {
            return args;
        };
        let line = row * layout.row() / APART;
        let first = row * layout.groups;
        args.groups = layout.groups as u64;
        args.group_blocks = layout.group.div_ceil(32) as u64;
        args.acts = self.lines[line..].as_ptr().cast();
        args.act_row = layout.row() as u64;
        args.act_plane = layout.plane() as u64;
        args.act_scales = self.scales[first..].as_ptr();
        args.act_init = self.starts[first..].as_ptr();
        args.act_sums = self.sums[first..].as_ptr();
        args.act_group_row = layout.groups as u64;
        args.act_group_plane = (self.rows * layout.groups) as u64;
        args
    }
}

impl RowsOut {
    /// Quantizes the rows of a range; `x` holds all rows.
    ///
    /// # Safety
    /// The room this is of is alive and nobody else reads or writes these rows of it.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn quantize(self, rows: std::ops::Range<usize>, x: &[f32]) {
        let layout = self.layout;
        debug_assert!(rows.end <= self.rows);
        for row in rows {
            // SAFETY: the room has so many rows, and this one is ours.
            let (codes, scales, sums, starts) = unsafe {
                let at = row * layout.groups;
                let slice = |p: *mut i32| std::slice::from_raw_parts_mut(p, layout.groups);
                let plane = |p: usize| {
                    let exists = p < layout.planes.count() as usize;
                    if exists {
                        slice(self.starts.add(p * self.rows * layout.groups + at))
                    } else {
                        &mut []
                    }
                };
                (
                    std::slice::from_raw_parts_mut(
                        self.codes.add(row * layout.row()),
                        layout.row(),
                    ),
                    std::slice::from_raw_parts_mut(self.scales.add(at), layout.groups),
                    std::slice::from_raw_parts_mut(self.sums.add(at), layout.groups),
                    [plane(0), plane(1), plane(2)],
                )
            };
            let x = &x[row * layout.k..][..layout.k];
            quantize(Row { layout, x, codes, scales, sums, starts });
        }
    }
}

/// One row.
struct Row<'a> {
    layout: ActLayout,
    x: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
    /// By plane.
    starts: [&'a mut [i32]; 3],
}

/// Quantizes a row with the vectors of this CPU.
fn quantize(row: Row<'_>) {
    #[cfg(target_arch = "x86_64")]
    let row = match wide::quantize(row) {
        Some(row) => row,
        None => return,
    };
    Arch::new().dispatch(row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulp::NullaryFnOnce;
    use qcc_quant::panel::PanelScale;

    fn layout(group: usize, k: usize, planes: Planes) -> ActLayout {
        let weight = PanelLayout::new(PanelBits::B4, group, k, 1, PanelScale::F32, true).unwrap();
        ActLayout::new(&weight, planes)
    }

    /// Roughly normal numbers that follow from a seed.
    fn normal(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..count).map(|_| (0..12).map(|_| next()).sum()).collect()
    }

    /// Values of a row as quantized, in f64, from codes and scales.
    fn values(acts: &Activations, row: usize) -> Vec<f64> {
        let layout = acts.layout().unwrap();
        let codes: Vec<i8> = acts.lines.iter().flat_map(|it| it.0).collect();
        let at = row * layout.row();
        (0..layout.groups * layout.group)
            .map(|k| {
                let planes = 0..layout.planes.count() as usize;
                let a = planes
                    .fold(0i64, |a, p| 128 * a + i64::from(codes[at + p * layout.plane() + k]));
                a as f64 * f64::from(acts.scales[row * layout.groups + k / layout.group])
            })
            .collect()
    }

    #[test]
    fn codes_by_hand() {
        let mut acts = Activations::new();
        let mut x = vec![0.0; 40];
        x[..5].copy_from_slice(&[12.7, -12.7, 0.05, 0.15, -0.249]);
        x[33] = 1e-31;
        acts.quantize(layout(32, 40, Planes::A8), &x);
        let codes: Vec<i8> = acts.lines.iter().flat_map(|it| it.0).collect();
        // 0.5 and 1.5 to even.
        assert_eq!(codes[..6], [127, -127, 0, 2, -2, 0]);
        assert!(codes[6..64].iter().all(|&it| it == 0));
        assert_eq!(acts.scales, [12.7 / 127.0, 0.0]);
        assert_eq!(acts.starts, [0, 0]);
        assert_eq!(acts.sums, [0.0, 0.0]);
        x[4] = 0.3;
        acts.quantize(layout(32, 40, Planes::A8), &x);
        assert_eq!((acts.starts[0], acts.sums[0]), (-8 * 5, 5.0 * acts.scales[0]));
    }

    #[test]
    fn planes_reach_their_ends() {
        for &planes in Planes::ALL {
            let mut acts = Activations::new();
            acts.quantize(layout(16, 16, planes), &[[-1.0; 8], [1.0; 8]].concat());
            let codes: Vec<i8> = acts.lines.iter().flat_map(|it| it.0).collect();
            let layout = acts.layout().unwrap();
            for p in 0..planes.count() as usize {
                let end = if p == 0 { 127 } else { 63 };
                assert_eq!(codes[p * layout.plane()..][7..9], [-end, end], "{planes}");
            }
            assert!(acts.starts.iter().all(|&it| it == 0));
        }
    }

    #[test]
    fn what_is_not_finite_spoils_its_group_only() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 96];
            x[40] = bad;
            let mut acts = Activations::new();
            acts.quantize(layout(32, 96, Planes::A15), &x);
            assert!(acts.scales[1].is_nan() && acts.sums[1].is_nan());
            assert_eq!((acts.scales[0], acts.scales[2]), (1.0 / 16319.0, 1.0 / 16319.0));
            assert!(values(&acts, 0)[..32].iter().all(|&it| (it - 1.0).abs() < 1e-6));
        }
    }

    /// Error of products of rows of 4096 with exact weights, groups of 32.
    fn error(planes: Planes, outliers: bool) -> f64 {
        let (k, rows) = (4096, 4);
        let mut x = normal(k * rows, 7);
        if outliers {
            x.iter_mut().step_by(100).for_each(|it| *it *= 30.0);
        }
        let w = normal(k * 64, 11);
        let mut acts = Activations::new();
        acts.quantize(layout(32, k, planes), &x);
        let (mut wrong, mut all) = (0.0, 0.0);
        for row in 0..rows {
            let values = values(&acts, row);
            for w in w.chunks_exact(k) {
                let dot =
                    |f: &dyn Fn(usize) -> f64| (0..k).map(|i| f64::from(w[i]) * f(i)).sum::<f64>();
                let want = dot(&|i| f64::from(x[row * k + i]));
                wrong += (dot(&|i| values[i]) - want).powi(2);
                all += want * want;
            }
        }
        (wrong / all).sqrt()
    }

    #[test]
    fn errors_are_what_the_header_says() {
        let all = [
            (Planes::A8, 5.4e-3, 1.2e-2),
            (Planes::A15, 4.2e-5, 9.4e-5),
            (Planes::A22, 3.2e-7, 7.3e-7),
        ];
        for (planes, plain, outliers) in all {
            let got = error(planes, false);
            assert!(got > 0.7 * plain && got < 1.15 * plain, "{planes}: {got:e}");
            let got = error(planes, true);
            assert!(got < 1.3 * outliers, "{planes} with outliers: {got:e}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn values_are_half_a_step_off_at_most(
            planes in prop::sample::select(Planes::ALL),
            group in prop::sample::select(vec![16usize, 32, 96, 256]),
            (k, rows) in (1usize..300, 1usize..4),
            exponent in -20i32..20, seed in any::<u64>(),
        ) {
            let by = 2f32.powi(exponent);
            let x: Vec<f32> = normal(k * rows, seed).into_iter().map(|it| it * by).collect();
            let mut acts = Activations::new();
            // A dirty room.
            acts.quantize(layout(32, 512, Planes::A22), &normal(512 * 4, 3));
            acts.quantize(layout(group, k, planes), &x);
            let layout = acts.layout().unwrap();
            let codes: Vec<i8> = acts.lines.iter().flat_map(|it| it.0).collect();
            for row in 0..rows {
                let values = values(&acts, row);
                for (i, &value) in values.iter().enumerate() {
                    let want = x[row * k..(row + 1) * k].get(i).copied().unwrap_or(0.0);
                    let step = f64::from(acts.scales[row * layout.groups + i / layout.group]);
                    // Rounding of f32 adds up to a quarter of a step with three planes.
                    prop_assert!((value - f64::from(want)).abs() <= 0.8 * step, "{} {}", value, want);
                }
                for g in 0..layout.groups {
                    let at = row * layout.groups + g;
                    let mut all = 0f64;
                    for p in 0..planes.count() as usize {
                        let from = row * layout.row() + p * layout.plane() + g * layout.group;
                        let sum: i32 = codes[from..from + layout.group].iter().map(|&it| i32::from(it)).sum();
                        prop_assert_eq!(acts.starts[p * rows * layout.groups + at], -8 * sum);
                        all = 128.0 * all + f64::from(sum);
                    }
                    let want = all * f64::from(acts.scales[at]);
                    prop_assert!((f64::from(acts.sums[at]) - want).abs() <= 1e-6 * want.abs());
                }
            }
        }

        #[test]
        fn every_cpu_computes_the_same_bits(
            planes in prop::sample::select(Planes::ALL),
            group in prop::sample::select(vec![16usize, 32, 96, 4096]), k in 1usize..1200,
            bad in prop::option::of(0usize..1200), seed in any::<u64>(),
        ) {
            let layout = layout(group, k, planes);
            let mut x = normal(k, seed);
            x.iter_mut().take(k / 3).for_each(|it| *it *= 1e-31);
            if let Some(x) = bad.and_then(|bad| x.get_mut(bad)) {
                *x = f32::NEG_INFINITY;
            }
            let (mut best, mut plain) = (Activations::new(), Activations::new());
            best.quantize(layout, &x);
            let (mut codes, groups) = (vec![99; layout.row()], layout.groups);
            plain.room(layout, 1);
            let (low, high) = plain.starts.split_at_mut(groups);
            let (mid, high) = high.split_at_mut(groups.min(high.len()));
            let starts = [low, mid, high];
            let (scales, sums) = (&mut plain.scales, &mut plain.sums);
            Row { layout, x: &x, codes: &mut codes, scales, sums, starts }.call();
            let bits = |all: &[f32]| all.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&best.scales), bits(&plain.scales));
            let finite = |all: &Activations, g: usize| all.scales[g].is_finite();
            for g in (0..groups).filter(|&g| finite(&best, g)) {
                prop_assert_eq!(best.sums[g].to_bits(), plain.sums[g].to_bits());
                for p in 0..planes.count() as usize {
                    prop_assert_eq!(best.starts[p * groups + g], plain.starts[p * groups + g]);
                    let at = p * layout.plane() + g * layout.group;
                    let codes_of = best.lines.iter().flat_map(|it| it.0).skip(at);
                    let codes_of: Vec<i8> = codes_of.take(layout.group).collect();
                    prop_assert_eq!(&codes_of, &codes[at..at + layout.group]);
                }
            }
        }

        #[test]
        fn a_row_does_not_depend_on_the_others(seed in any::<u64>(), rows in 2usize..5) {
            let (k, layout) = (200, layout(64, 200, Planes::A15));
            let x = normal(k * rows, seed);
            let (mut all, mut one) = (Activations::new(), Activations::new());
            all.quantize(layout, &x);
            one.quantize(layout, &x[(rows - 1) * k..]);
            prop_assert_eq!(values(&all, rows - 1), values(&one, 0));
            prop_assert!(layout.serves(&one.layout().unwrap()));
        }
    }
}
