//! The arithmetic of a product once more, from the numbers of the weight and one row at a time.

use proptest::prelude::*;
use qcc_kernels::{Epilogue, KernelBits, Planes, ScaleKind};
use qcc_quant::panel::{PanelLayout, UnpackedWeight};

/// A weight and what it is packed as.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) layout: PanelLayout,
    pub(crate) weight: UnpackedWeight,
    pub(crate) bias: Vec<f32>,
}

/// Numbers that follow from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// Within -2 and 2.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() as i32 >> 8) as f32 / (1 << 22) as f32
    }

    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

impl Case {
    pub(crate) fn new(layout: PanelLayout, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let groups = layout.n() * layout.groups();
        let mask = u8::MAX >> (8 - layout.bits().bits());
        let codes = (0..layout.n() * layout.k()).map(|_| random.next() as u8 & mask).collect();
        // Eighths are exact in every kind of scale; f32 has more.
        let scales = (0..groups).map(|_| match layout.scale() {
            ScaleKind::F32 => random.float(),
            _ => (random.next() % 64) as f32 / 8.0 - 4.0,
        });
        let scales = scales.collect();
        let zeros = layout
            .zeros()
            .then(|| (0..groups).map(|_| f32::from(random.next() as u8 & mask)).collect());
        let bias = random.floats(layout.n());
        Self { layout, weight: UnpackedWeight { codes, scales, zeros }, bias }
    }
}

/// Shapes with ragged ends, all widths, groups and kinds.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    (
        prop::sample::select(KernelBits::ALL),
        prop::sample::select(vec![16usize, 32, 64, 96, 128, 256, 4096]),
        (1usize..330, prop::sample::select(vec![1usize, 15, 16, 17, 31, 32, 33, 49, 64, 70])),
        prop::sample::select(ScaleKind::ALL),
        (any::<bool>(), any::<u64>()),
    )
        .prop_map(|(bits, group, (k, n), scale, (zeros, seed))| {
            Case::new(PanelLayout::new(bits, group, k, n, scale, zeros).unwrap(), seed)
        })
}

/// One row of results, to the bit.
pub(crate) fn row(
    case: &Case,
    planes: Planes,
    epilogue: Epilogue,
    x: &[f32],
    extra: &[f32],
) -> Vec<f32> {
    let layout = &case.layout;
    let (k, n, groups) = (layout.k(), layout.n(), layout.groups());
    let mut y = vec![0f32; n];
    for g in 0..groups {
        let range = g * layout.group()..((g + 1) * layout.group()).min(k);
        let x = &x[range.clone()];
        let amax = x.iter().fold(0f32, |most, x| most.max(x.abs()));
        let largest = planes.largest() as f32;
        let scale = if amax > 1e-30 { amax / largest } else { 0.0 };
        let inverse = if amax > 1e-30 { largest / amax } else { 0.0 };
        let codes: Vec<i64> = x.iter().map(|x| (x * inverse).round_ties_even() as i64).collect();
        let parts: Vec<Vec<i64>> = match planes {
            Planes::A8 => vec![codes],
            Planes::A15 => split(&codes).into(),
            Planes::A22 => {
                let [high, low] = split(&codes);
                let [high, middle] = split(&high);
                vec![high, middle, low]
            }
        };
        let join = |totals: &mut dyn Iterator<Item = i64>| {
            totals.map(|it| it as f32).reduce(|t, it| t.mul_add(128.0, it)).unwrap()
        };
        let act_sum = scale * join(&mut parts.iter().map(|part| part.iter().sum()));
        for (column, y) in y.iter_mut().enumerate() {
            let q = &case.weight.codes[column * k..][range.clone()];
            let middle = i64::from(layout.bits().middle());
            let middle = if layout.zeros() { 0 } else { middle };
            let total = |part: &Vec<i64>| -> i64 {
                part.iter().zip(q).map(|(a, &q)| a * (i64::from(q) - middle)).sum()
            };
            let t = join(&mut parts.iter().map(total));
            let weight_scale = case.weight.scales[column * groups + g];
            *y = t.mul_add(weight_scale * scale, *y);
            if let Some(zeros) = &case.weight.zeros {
                let zero = weight_scale * zeros[column * groups + g];
                *y = (-zero).mul_add(act_sum, *y);
            }
        }
    }
    let bias = &case.bias;
    (0..n).map(|i| epilogue.apply(y[i], bias[i], extra[i])).collect()
}

/// `a = 128 high + low` with low in -64..=63.
fn split(codes: &[i64]) -> [Vec<i64>; 2] {
    let low = |a: i64| (a + 64).rem_euclid(128) - 64;
    [codes.iter().map(|&a| (a - low(a)) / 128).collect(), codes.iter().map(|&a| low(a)).collect()]
}
