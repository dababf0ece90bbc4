//! Rows in plain loops, for any CPU: the definition of the others.

use super::{INFINITE, Planes, ROUNDER, Row, TINY};
use pulp::NullaryFnOnce;

impl NullaryFnOnce for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        // The number of planes is a constant in each of them.
        match self.layout.planes {
            Planes::A8 => self.run::<1>(),
            Planes::A15 => self.run::<2>(),
            Planes::A22 => self.run::<3>(),
        }
    }
}

impl Row<'_> {
    #[inline(always)]
    fn run<const PLANES: usize>(self) {
        let Self { layout, x, codes, scales, sums, mut starts } = self;
        let largest = layout.planes.largest() as f32;
        let middle = i32::from(layout.bits.middle());
        let mut groups = x.chunks(layout.group);
        for g in 0..layout.groups {
            let x = groups.next().unwrap_or(&[]);
            let most = magnitude(x);
            let amax = f32::from_bits(most);
            let some = amax > TINY;
            let bad = most >= INFINITE;
            let inverse = if some && !bad { largest / amax } else { 0.0 };
            let scale = if bad { f32::NAN } else { amax / largest };
            let scale = if some || bad { scale } else { 0.0 };

            // Lane by lane until the group is done.
            let mut lanes = [[0i32; LANES]; PLANES];
            for (i, first) in (0..layout.group).step_by(LANES).enumerate() {
                let mut values = [0.0; LANES];
                match x.as_chunks().0.get(i) {
                    Some(full) => values = *full,
                    None if first < x.len() => {
                        values[..x.len() - first].copy_from_slice(&x[first..]);
                    }
                    None => {}
                }
                let codes = &mut codes[g * layout.group + first..];
                split(&values, inverse, layout.plane(), codes, &mut lanes);
            }
            let add = |a: i32, b: i32| a.wrapping_add(b);
            let totals = lanes.map(|lanes| lanes.into_iter().fold(0, add));
            let mut joined = totals[0] as f32;
            for total in &totals[1..] {
                joined = joined.mul_add(128.0, *total as f32);
            }
            scales[g] = scale;
            sums[g] = scale * joined;
            for (starts, total) in starts.iter_mut().zip(totals) {
                starts[g] = total.wrapping_mul(-middle);
            }
        }
    }
}

/// Values of a loop: a vector of AVX2, two of NEON.
const LANES: usize = 8;

/// Bits of the largest magnitude: as numbers they are in the same order, with NaN at the end.
#[inline(always)]
fn magnitude(x: &[f32]) -> u32 {
    let bits = |x: &f32| x.to_bits() & (u32::MAX >> 1);
    let (values, rest) = x.as_chunks::<LANES>();
    let mut most = [0u32; LANES];
    for values in values {
        for (most, x) in most.iter_mut().zip(values) {
            *most = (*most).max(bits(x));
        }
    }
    most.into_iter().chain(rest.iter().map(bits)).fold(0, u32::max)
}

/// Codes to where those of plane 0 go and on, and to the totals. Of what is not finite they are
/// anything.
#[inline(always)]
fn split<const PLANES: usize>(
    values: &[f32; LANES],
    inverse: f32,
    plane: usize,
    codes: &mut [i8],
    totals: &mut [[i32; LANES]; PLANES],
) {
    let mut a = [0i32; LANES];
    for (a, x) in a.iter_mut().zip(values) {
        *a = (x * inverse + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    }
    for p in (0..PLANES).rev() {
        let mut low = a;
        if p > 0 {
            for (low, a) in low.iter_mut().zip(&mut a) {
                *low = (a.wrapping_add(64) & 127) - 64;
                *a = a.wrapping_sub(*low) >> 7;
            }
        }
        for (to, low) in codes[p * plane..][..LANES].iter_mut().zip(&low) {
            *to = *low as i8;
        }
        for (total, low) in totals[p].iter_mut().zip(&low) {
            *total = total.wrapping_add(*low);
        }
    }
}
