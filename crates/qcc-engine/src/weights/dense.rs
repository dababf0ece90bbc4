//! `ai.qcc::MatMulQ<b>`: codes at their true width. docs/ai-qcc.md defines the bytes.

use qcc_ops::matmul_q::MatMulQ;
use qcc_quant::layout::Dense;
use qcc_quant::panel::{GroupedWeight, PanelBits, UnpackedWeight};
use qcc_tensor::DType;

use super::{LowBit, Place, Refused, WeightSource, floats, planes};

pub(super) fn read(place: &Place<'_>, op: &MatMulQ) -> Result<LowBit, Refused> {
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
    let zeros = place.optional(3, "zero points")?;
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
    let numbers = UnpackedWeight {
        codes: unpack(codes.bytes(), &layout, k),
        scales: scales.into_owned(),
        zeros: points,
    };
    let weight = GroupedWeight { n, k, bits, group: block, weight: numbers };
    let weight = centered(weight).narrowed();
    weight.layout()?;
    let values = [Some(codes_at), Some(scales_at), zeros.map(|it| it.0)];
    Ok(LowBit {
        x: place.x()?,
        weight,
        bias: None,
        planes: planes(0, place.x_type()),
        source: WeightSource {
            values: values.into_iter().flatten().collect(),
            shape: [n, k],
            is_turned: true,
        },
    })
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
