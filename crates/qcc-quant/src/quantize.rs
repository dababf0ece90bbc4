//! The loop over a weight that every rounding shares: rows in parallel, outputs disjoint.

use crate::{
    codes::Codes,
    rows::{Order, WeightRows},
    spec::WeightSpec,
};
use rayon::prelude::*;

/// `round(row, first_column, weights, out)`.
type RoundTile<'a> = dyn Fn(usize, usize, &[f32], RowOut<'_>) + Sync + 'a;

/// Where the result of one row, or of a run of whole groups of it, goes.
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

/// Rounds `rows` by `round(row, weights, out)`, called once for each row in any order and from
/// many threads. `weights: [k]`; `out` starts as the codes of zeros. The result does not depend
/// on the number of threads.
pub fn quantize(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    round: &(dyn Fn(usize, &[f32], RowOut<'_>) + Sync),
) -> Codes {
    in_tiles(rows, spec, rows.k(), &|row, _, weights, out| round(row, weights, out))
}

/// Like [`quantize`] for a rounding that looks at one group at a time:
/// `round(first_column, weights, out)` gets runs of whole groups, which keeps tiles in cache.
pub(crate) fn quantize_groups(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    round: &(dyn Fn(usize, &[f32], RowOut<'_>) + Sync),
) -> Codes {
    let group = spec.group.len(rows.k());
    let columns = match rows.order() {
        Order::Nk => TILE_FLOATS,
        Order::Kn => TILE_FLOATS / KN_ROWS,
    };
    let columns = (columns / group).max(1) * group;
    in_tiles(rows, spec, columns, &|_, column, weights, out| round(column, weights, out))
}

/// `columns` is a multiple of the group size or at least `k`.
fn in_tiles(
    rows: &WeightRows<'_>,
    spec: &WeightSpec,
    columns: usize,
    round: &RoundTile<'_>,
) -> Codes {
    let (n, k) = (rows.n(), rows.k());
    let (groups, size) = (spec.group.count(k), spec.group.len(k));
    // Pages of zeros come from the system untouched; the threads fill them tile by tile.
    let (codes, scales, zeros) = (vec![0; n * k], vec![0.0; n * groups], vec![0; n * groups]);
    let mut codes = Codes { n, k, spec: *spec, codes, scales, zeros };
    if n == 0 || k == 0 {
        return codes;
    }
    let columns = columns.min(k);
    let tile_rows = match rows.order() {
        Order::Nk => (TILE_FLOATS / columns).clamp(1, n),
        Order::Kn => KN_ROWS.min(n),
    };
    let row_codes = codes.codes.par_chunks_mut(tile_rows * k);
    let row_scales = codes.scales.par_chunks_mut(tile_rows * groups);
    let row_zeros = codes.zeros.par_chunks_mut(tile_rows * groups);
    row_codes.zip(row_scales).zip(row_zeros).enumerate().for_each_init(
        || vec![0.0; tile_rows * columns],
        |tile, (block, ((codes, scales), zeros))| {
            let (first, count) = (block * tile_rows, codes.len() / k);
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
                    let out = RowOut {
                        codes: &mut codes[i * k + left..][..width],
                        scales: &mut scales[group..][..groups_width],
                        zeros: &mut zeros[group..][..groups_width],
                    };
                    round(first + i, left, weights, out);
                }
            }
        },
    );
    codes
}
