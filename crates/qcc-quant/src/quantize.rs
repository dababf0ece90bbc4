//! The loop over a weight that every rounding of rows shares: rows in parallel, outputs disjoint.

use crate::{
    codes::Codes,
    error::SquaredError,
    fields::{field_bytes, pack_fields},
    numbers::NumbersMut,
    rows::{Order, WeightRows},
    spec::WeightSpec,
};
use rayon::prelude::*;

/// `round(first_column, weights, out)`.
type RoundTile<'a> = dyn Fn(usize, &[f32], RowOut<'_>) + Sync + 'a;

/// Where the result of a run of whole groups of a row goes.
#[derive(Debug)]
pub struct RowOut<'a> {
    /// A code for each weight.
    pub codes: &'a mut [u8],
    /// A scale for each group, rounded to the stored type.
    pub scales: &'a mut [f32],
    /// A zero point for each group.
    pub zeros: &'a mut [u8],
}

/// Floats of a tile: with the codes they fit a cache of 512 KiB.
const TILE_FLOATS: usize = 64 * 1024;
/// Rows of a tile of a `[K][N]` weight: whole cache lines of every line it crosses.
const KN_ROWS: usize = 128;

/// Codes of one byte that `fill` writes, and their error.
pub(crate) fn codes_by(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    fill: impl FnOnce(NumbersMut<'_>) -> SquaredError,
) -> (Codes, SquaredError) {
    let mut codes = Codes::zeroed(rows.n(), rows.k(), *spec);
    let Codes { codes: bytes, scales, zeros, .. } = &mut codes;
    let error = fill(NumbersMut { field: 8, codes: bytes, scales, zeros });
    (codes, error)
}

/// Rounds `rows` by `round(first_column, weights, out)`, called for runs of whole groups of a row,
/// in any order and from many threads; `out` starts as the codes of zeros. Gives the error of the
/// result, which like the numbers does not depend on the number of threads.
///
/// # Panics
/// If `out` is not of the size of `rows`.
pub(crate) fn quantize_groups(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    out: NumbersMut<'_>,
    round: &RoundTile<'_>,
) -> SquaredError {
    let (n, k) = (rows.n(), rows.k());
    let (groups, size) = (spec.group.count(k), spec.group.len(k));
    if n == 0 || k == 0 {
        return SquaredError::default();
    }
    let columns = match rows.order() {
        Order::Nk => TILE_FLOATS,
        Order::Kn => TILE_FLOATS / KN_ROWS,
    };
    let columns = ((columns / size).max(1) * size).min(k);
    let tile_rows = match rows.order() {
        Order::Nk => (TILE_FLOATS / columns).clamp(1, n),
        Order::Kn => KN_ROWS.min(n),
    };
    let NumbersMut { field, codes, scales, zeros } = out;
    let row_bytes = field_bytes(k, field).unwrap_or(usize::MAX);
    assert_eq!(codes.len(), n * row_bytes, "fields of these rows");
    let blocks = codes.par_chunks_mut(tile_rows * row_bytes).zip(
        scales.par_chunks_mut(tile_rows * groups).zip(zeros.par_chunks_mut(tile_rows * groups)),
    );
    let buffers = || {
        // Fields of 8 bits are codes of one byte: they are written in place.
        let codes = vec![0; if field == 8 { 0 } else { tile_rows * k }];
        (vec![0.0; tile_rows * columns], codes)
    };
    let errors: Vec<SquaredError> = blocks
        .enumerate()
        .map_init(buffers, |(tile, scratch), (block, (fields, (scales, zeros)))| {
            let (first, count) = (block * tile_rows, fields.len() / row_bytes);
            let mut error = SquaredError::default();
            {
                let codes = if field == 8 { &mut *fields } else { &mut scratch[..count * k] };
                codes.fill(spec.bits.middle());
                scales.fill(1.0);
                zeros.fill(spec.bits.middle());
                for left in (0..k).step_by(columns) {
                    let width = columns.min(k - left);
                    let tile = &mut tile[..count * width];
                    rows.read_tile(first, left, width, tile);
                    let groups_left = left / size;
                    let groups_width = width.div_ceil(size);
                    for (i, weights) in tile.chunks_exact(width).enumerate() {
                        let group = i * groups + groups_left;
                        let codes = &mut codes[i * k + left..][..width];
                        let scales = &mut scales[group..][..groups_width];
                        let zeros = &mut zeros[group..][..groups_width];
                        let out =
                            RowOut { codes: &mut *codes, scales: &mut *scales, zeros: &mut *zeros };
                        round(left, weights, out);
                        error = error + SquaredError::of(weights, size, codes, scales, zeros);
                    }
                }
            }
            if field != 8 {
                for (out, codes) in fields.chunks_exact_mut(row_bytes).zip(scratch.chunks_exact(k))
                {
                    pack_fields(codes, field, out);
                }
            }
            error
        })
        .collect();
    errors.into_iter().fold(SquaredError::default(), |sum, it| sum + it)
}
