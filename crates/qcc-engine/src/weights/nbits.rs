//! `com.microsoft::MatMulNBits` of any tool.

use qcc_ops::nbits::MatMulNBits;
use qcc_quant::panel::NBitsWeight;
use qcc_tensor::DType;

use super::{LowBit, Place, Refused, WeightSource, floats, planes};

pub(super) fn read(place: &Place<'_>, op: &MatMulNBits) -> Result<LowBit, Refused> {
    if place.operand(4).is_some() {
        return Err(Refused::new("its codes are in the order of a g_idx, which is deprecated"));
    }
    if op.weight_prepacked != 0 {
        return Err(Refused::new("its weight is prepacked for some device"));
    }
    let (codes_at, codes) = place.constant(1, "weight")?;
    let (scales_at, scales) = place.constant(2, "scales")?;
    let zeros = place.optional(3, "zero points")?;
    if codes.dtype() != DType::U8 {
        return Err(Refused(format!("its codes are {}, not u8", codes.dtype())));
    }
    let (n, k) = (op.n, op.k);
    // Zero points are packed codes, or floats that need not be integers.
    let packed = zeros.as_ref().filter(|it| it.1.dtype() == DType::U8);
    let weight = NBitsWeight {
        n,
        k,
        bits: op.bits,
        block: op.block_size,
        codes: codes.bytes(),
        scales: &floats(scales, "scales")?,
        zeros: packed.map(|it| &**it.1.bytes()),
    };
    let mut weight = weight.unpack()?;
    if let (Some((_, zeros)), None) = (&zeros, packed) {
        let zeros = floats(zeros, "zero points")?;
        if zeros.len() != weight.weight.scales.len() {
            return Err(Refused(format!(
                "it has {} zero points for {} scales",
                zeros.len(),
                weight.weight.scales.len()
            )));
        }
        weight.weight.zeros = Some(zeros.into_owned());
    }
    let weight = weight.narrowed();
    weight.layout()?;
    let values = [Some(codes_at), Some(scales_at), zeros.map(|it| it.0)];
    Ok(LowBit {
        x: place.x()?,
        weight,
        overlay: None,
        bias: place.bias(5, n)?,
        planes: planes(op.accuracy_level, place.x_type()),
        source: WeightSource {
            values: values.into_iter().flatten().collect(),
            shape: [n, k],
            is_turned: true,
        },
    })
}
