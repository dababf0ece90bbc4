//! `ai.qcc::MatMulQ<b>` and `MatMulQ<b>Outliers`: codes at their true width. docs/ai-qcc.md defines
//! the bytes.

use qcc_ir::{Scope, Value};
use qcc_kernels::{Apart, Overlay, OverlayError};
use qcc_ops::matmul_q::MatMulQ;
use qcc_ops::outliers::{self, MatMulQOutliers};
use qcc_quant::layout::{Dense, Outliers};
use qcc_quant::panel::{GroupedWeight, PanelBits, UnpackedWeight};
use qcc_tensor::{DType, Tensor};

use super::{LowBit, Place, Refused, WeightSource, floats, planes};

pub(super) fn read(place: &Place<'_>, op: &MatMulQ) -> Result<LowBit, Refused> {
    let zeros = place.optional(3, "zero points")?;
    found(place, op, zeros, None)
}

/// A weight with outliers: a matrix in which they are 0, and they themselves as floats.
pub(super) fn read_outliers(place: &Place<'_>, op: &MatMulQOutliers) -> Result<LowBit, Refused> {
    let &MatMulQOutliers { bits, n, k, block_size } = op;
    let (scales_at, scales) = place.constant(3, "scales of outliers")?;
    let (gaps_at, gaps) = place.constant(4, "places of outliers")?;
    let outliers = outliers::read((n, k, block_size), scales, gaps)
        .map_err(|error| Refused(format!("its outliers cannot be read: {error}")))?;
    let op = MatMulQ { bits, is_symmetric: true, k, n, block_size };
    let mut found = found(place, &op, None, Some(&outliers))?;
    found.source.values.extend([scales_at, gaps_at]);
    Ok(found)
}

fn found(
    place: &Place<'_>,
    op: &MatMulQ,
    zeros: Option<((Scope, Value), &Tensor)>,
    outliers: Option<&Outliers>,
) -> Result<LowBit, Refused> {
    let (codes_at, codes) = place.constant(1, "weight")?;
    let (scales_at, scales) = place.constant(2, "scales")?;
    let (n, k, block) = (op.n, op.k, op.block_size);
    let layout = Dense::new(n, k, op.bits, block)
        .map_err(|error| Refused(format!("its weight cannot be read: {error}")))?;
    // The last field of the name, 5 and 6 bits too, is held by the next width that has a kernel.
    let bits = PanelBits::holding(layout.field())
        .ok_or_else(|| Refused(format!("there is no kernel of {} bits", op.bits)))?;
    let groups = layout.blocks().checked_mul(n);
    let scales = floats(scales, "scales")?;
    if codes.dtype() != DType::U8
        || codes.bytes().len() != layout.bytes()
        || groups != Some(scales.len())
    {
        return Err(Refused::new("its codes and scales do not fit N, K and the block size"));
    }
    let points = match &zeros {
        Some((_, it)) if it.len() == scales.len() => Some(floats(it, "zero points")?.into_owned()),
        Some((_, it)) => {
            return Err(Refused(format!(
                "it has {} zero points for {} scales",
                it.len(),
                scales.len()
            )));
        }
        // The middle of the width that is named; of the one that holds it, it is another number.
        None => {
            let middle = 1u8 << (op.bits - 1);
            (middle != bits.middle()).then(|| vec![f32::from(middle); scales.len()])
        }
    };
    let mut codes = unpack(codes.bytes(), &layout, k);
    let overlay =
        outliers.map(|it| apart(&mut codes, it, (n, k), 1 << (op.bits - 1))).transpose()?;
    let numbers = UnpackedWeight { codes, scales: scales.into_owned(), zeros: points };
    let weight = GroupedWeight { n, k, bits, group: block, weight: numbers };
    let weight = centered(weight).narrowed();
    weight.layout()?;
    let values = [Some(codes_at), Some(scales_at), zeros.map(|it| it.0)];
    Ok(LowBit {
        x: place.x()?,
        weight,
        overlay,
        bias: None,
        planes: planes(0, place.x_type()),
        source: WeightSource {
            values: values.into_iter().flatten().collect(),
            shape: [n, k],
            is_turned: true,
        },
    })
}

/// Takes outliers out of codes `[n][k]`, which become the `middle` there.
fn apart(
    codes: &mut [u8],
    outliers: &Outliers,
    (n, k): (usize, usize),
    middle: u8,
) -> Result<Overlay, Refused> {
    let refused = |error: OverlayError| Refused(error.to_string());
    let mut apart = Apart::new(k).map_err(refused)?;
    for (row, codes) in codes.chunks_exact_mut(k.max(1)).take(n).enumerate() {
        apart.column(codes, outliers.row(row), middle).map_err(refused)?;
    }
    apart.finish().map_err(refused)
}

/// Eight codes are one little-endian word of `field` bytes.
fn unpack(bytes: &[u8], layout: &Dense, k: usize) -> Vec<u8> {
    let field = usize::from(layout.field());
    let row_bytes = layout.blocks() * layout.block_bytes();
    let mask = u64::from(u8::MAX >> (8 - layout.field()));
    let mut codes = Vec::with_capacity(bytes.len() / field * 8);
    for row in bytes.chunks_exact(row_bytes.max(1)) {
        let end = codes.len() + k;
        for word in row.chunks_exact(field) {
            let word = word.iter().rev().fold(0u64, |word, &it| word << 8 | u64::from(it));
            codes.extend((0..8).map(|i| (word >> (i * field) & mask) as u8));
        }
        codes.truncate(end);
    }
    codes
}

/// Codes whose zero points are all the same number, moved so that it is the middle: then none
/// need to be stored.
fn centered(mut weight: GroupedWeight) -> GroupedWeight {
    let Some(&[first, ref rest @ ..]) = weight.weight.zeros.as_deref() else { return weight };
    let by = f32::from(weight.bits.middle()) - first;
    let highest = weight.weight.codes.iter().copied().max().unwrap_or(0);
    let is_byte = by.fract() == 0.0 && (0.0..=255.0).contains(&by);
    let most = u8::MAX >> (8 - weight.bits.bits());
    if !is_byte || f32::from(highest) + by > f32::from(most) || rest.iter().any(|&it| it != first) {
        return weight;
    }
    weight.weight.codes.iter_mut().for_each(|it| *it += by as u8);
    weight.weight.zeros = None;
    weight
}
