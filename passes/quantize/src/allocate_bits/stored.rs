//! Bytes that a weight takes in the output: codes, scales and zero points, with all that fills them
//! up.

use std::str::FromStr as _;

use qcc_ops::quant::{Form, Layout};
use qcc_quant::layout::{Dense, NBits, Qdq, Sign, dense, field_bits};
use qcc_quant::spec::{Bits, Grid, WeightSpec};

/// The widths that a layout has fields for: others take the bytes of a wider one and lose more.
pub(crate) fn widths(layout: Layout) -> Vec<Bits> {
    let all = (2..=8).filter(|&it| match layout {
        Layout::NBits | Layout::Qdq => field_bits(it) == it,
        Layout::Dense => dense::dense_bits(it) == it,
    });
    all.filter_map(Bits::new).collect()
}

/// A layout by its name.
pub(crate) fn layout(name: &str) -> Option<Layout> {
    Layout::from_str(name).ok()
}

/// The bytes of a weight; `None` where the layout cannot hold it.
pub(crate) fn stored(layout: Layout, form: Form, spec: &WeightSpec) -> Option<u64> {
    let Form { n, k, .. } = form;
    let (bits, block) = (spec.bits.get(), layout.block(form, spec).ok()?);
    let (codes, blocks, zeros) = match layout {
        Layout::NBits => {
            let it = NBits::new(n, k, bits, block).ok()?;
            (it.bytes(), it.blocks(), it.zero_bytes())
        }
        Layout::Qdq => {
            let sign = if spec.grid == Grid::Sym { Sign::Signed } else { Sign::Unsigned };
            let it = Qdq::new(n, k, bits, sign).ok()?;
            let blocks = k.div_ceil(block.max(1));
            (it.bytes(), blocks, it.zero_bytes(blocks))
        }
        Layout::Dense => {
            let it = Dense::new(n, k, bits, block).ok()?;
            (it.bytes(), it.blocks(), n.checked_mul(it.blocks())?)
        }
    };
    let scales = n.checked_mul(blocks)?.checked_mul(spec.scale.bytes())?;
    let zeros = if spec.grid == Grid::Sym { 0 } else { zeros };
    u64::try_from(codes.checked_add(scales)?.checked_add(zeros)?).ok()
}

#[cfg(test)]
mod tests {
    use qcc_quant::rows::Order;
    use qcc_quant::spec::{GroupSize, ScaleType};

    use super::*;

    #[test]
    fn widths_are_those_with_fields() {
        let bits = |layout| widths(layout).into_iter().map(Bits::get).collect::<Vec<_>>();
        assert_eq!(bits(Layout::NBits), [2, 4, 8]);
        assert_eq!(bits(Layout::Qdq), [2, 4, 8]);
        assert_eq!(bits(Layout::Dense), [2, 3, 4, 5, 6, 8]);
        assert_eq!(layout("dense"), Some(Layout::Dense));
        assert_eq!(layout("x"), None);
    }

    #[test]
    fn three_bits_take_the_bytes_of_four() {
        let form = Form { n: 384, k: 1536, order: Order::Kn };
        let spec = |bits| WeightSpec {
            bits: Bits::new(bits).unwrap(),
            group: GroupSize::of(32).unwrap(),
            grid: Grid::Asym,
            scale: ScaleType::F32,
        };
        let of = |layout, bits| stored(layout, form, &spec(bits));
        assert_eq!(of(Layout::NBits, 4), Some(384 * 1536 * 41 / 64));
        assert_eq!(of(Layout::NBits, 3), of(Layout::NBits, 4));
        assert!(of(Layout::Dense, 3) < of(Layout::Dense, 4));
        assert_eq!(of(Layout::Dense, 7), None);
        let odd = Form { n: 387, ..form };
        assert_eq!(stored(Layout::Qdq, odd, &spec(2)), None);
    }
}
