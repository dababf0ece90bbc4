//! Operators over codes.

use qcc_tensor::{DType, Tensor};

use crate::cases::{Case, Random, check, tensor};

/// Zero points of `MatMulNBits`.
#[derive(Clone, Copy, PartialEq)]
enum Zeros {
    None,
    Packed,
    Float,
}

fn matmul_nbits(bits: usize, block: usize, [k, n]: [usize; 2], a: &[usize], zeros: Zeros) {
    let mut random = Random::new((bits * 7 + block * 3 + k * 5 + n) as u64);
    let blocks = k.div_ceil(block);
    let case = Case::new("MatMulNBits")
        .int("K", k as i64)
        .int("N", n as i64)
        .int("bits", bits as i64)
        .int("block_size", block as i64)
        .input(random.floats(a))
        .input(random.bytes(&[n, blocks, block * bits / 8]))
        .input(random.scales(&[n, blocks]))
        .maybe(match zeros {
            Zeros::None => None,
            Zeros::Packed => Some(random.bytes(&[n, (blocks * bits).div_ceil(8)])),
            Zeros::Float => Some(random.scales(&[n, blocks])),
        });
    let bias = n % 2 == 1;
    check(&if bias { case.absent(1).input(random.floats(&[n])) } else { case });
}

#[test]
fn matmul_nbits_all_widths() {
    for bits in [2, 4, 8] {
        for (block, kn) in [(16, [100, 5]), (32, [96, 34]), (64, [257, 1]), (128, [128, 33])] {
            matmul_nbits(bits, block, kn, &[3, kn[0]], Zeros::None);
            matmul_nbits(bits, block, kn, &[1, 2, kn[0]], Zeros::Packed);
            if bits != 8 {
                matmul_nbits(bits, block, kn, &[1, kn[0]], Zeros::Float);
            }
        }
    }
}

#[test]
fn matmul_nbits_ranks_and_empty_batches() {
    matmul_nbits(4, 32, [40, 6], &[40], Zeros::Packed);
    matmul_nbits(4, 32, [40, 6], &[0, 40], Zeros::Packed);
    matmul_nbits(4, 32, [40, 7], &[2, 0, 40], Zeros::None);
    matmul_nbits(4, 256, [1000, 300], &[70, 1000], Zeros::Packed);
}

#[test]
fn gather_from_packed_tables() {
    for bits in [2usize, 4, 8] {
        for (block, d, has_zeros) in
            [(16usize, 250 / 8 * 8, true), (64, 200, false), (32, 72, true)]
        {
            let mut random = Random::new((bits * block + d) as u64);
            let (v, blocks) = (11, d.div_ceil(block));
            let case = Case::new("GatherBlockQuantized")
                .int("bits", bits as i64)
                .int("block_size", block as i64)
                .input(random.bytes(&[v, d * bits / 8]))
                .input(tensor(&[2, 3], &[0i64, 10, 3, -1, 5, 5]))
                .input(random.scales(&[v, blocks]))
                .maybe(has_zeros.then(|| random.bytes(&[v, (blocks * bits).div_ceil(8)])));
            check(&case);
        }
    }
}

#[test]
fn gather_from_nibbles_on_any_axis() {
    for (dtype, dims, gather, quantize) in [
        (DType::U4, [3usize, 40, 5], 0, 1),
        (DType::I4, [3, 40, 5], 2, 1),
        (DType::I4, [20, 3, 32], -3, -1),
    ] {
        for has_zeros in [false, true] {
            let mut random = Random::new(dims[0] as u64);
            let axis = if quantize < 0 { 2 } else { 1 };
            let mut blocks = dims;
            blocks[axis] = dims[axis].div_ceil(16);
            let case = Case::new("GatherBlockQuantized")
                .int("block_size", 16)
                .int("gather_axis", gather)
                .int("quantize_axis", quantize)
                .input(random.bits(dtype, &dims))
                .input(tensor(&[4], &[1i32, 0, 2, -1]))
                .input(random.scales(&blocks))
                .maybe(has_zeros.then(|| random.bits(dtype, &blocks)));
            check(&case);
        }
    }
}

/// How scales lie over a tensor `[4, 6, 5]`.
const SPREADS: [(&[usize], i64, i64); 4] =
    [(&[], 1, 0), (&[6], 1, 0), (&[5], -1, 0), (&[4, 2, 5], 1, 4)];

#[test]
fn dequantize_every_integer() {
    use DType::{I2, I4, I8, I16, I32, U2, U4, U8, U16};
    let dims = [4, 6, 5];
    for dtype in [U2, I2, U4, I4, U8, I8, U16, I16, I32] {
        for (scale, axis, block) in SPREADS {
            let mut random = Random::new(dtype.onnx_code() as u64);
            if dtype == I32 && block != 0 {
                continue;
            }
            let case = Case::onnx("DequantizeLinear", 25).int("axis", axis);
            let case = if block > 0 { case.int("block_size", block) } else { case };
            let x = random.bits(dtype, &dims);
            let case = case.input(x).input(random.scales(scale));
            let zeros = (dtype != I32).then(|| random.bits(dtype, scale));
            check(&if let Some(it) = zeros { case.input(it) } else { case });
        }
    }
}

#[test]
fn quantize_to_bytes_and_words() {
    for dtype in [DType::U8, DType::I8, DType::U16, DType::I16] {
        for (scale, axis, block) in SPREADS {
            let mut random = Random::new(dtype.onnx_code() as u64 + 5);
            let case = Case::onnx("QuantizeLinear", 23).int("axis", axis);
            let case = if block > 0 { case.int("block_size", block) } else { case };
            let case = case
                .input(random.floats(&[4, 6, 5]))
                .input(scales_around(&mut random, scale))
                .input(random.bits(dtype, scale))
                .outputs(&[Some(dtype)]);
            check(&case);
        }
    }
}

/// Scales of powers of two, so that no quotient lies next to a tie by rounding.
fn scales_around(random: &mut Random, dims: &[usize]) -> Tensor {
    let values: Vec<f32> =
        (0..dims.iter().product()).map(|_| 0.5f32.powi((random.next() % 10) as i32)).collect();
    Tensor::from_vec(dims.to_vec(), values).unwrap()
}

#[test]
fn contrib_forms_of_quantize_and_dequantize() {
    let mut random = Random::new(8);
    let x = random.bits(DType::U16, &[3, 4]);
    let case = Case::new("DequantizeLinear").int("axis", 0).input(x);
    check(&case.input(random.scales(&[3])).input(random.bits(DType::U16, &[3])));
    let case = Case::new("QuantizeLinear").input(random.floats(&[3, 4]));
    let case = case.input(tensor(&[], &[0.125f32])).input(tensor(&[], &[3u8]));
    check(&case.outputs(&[Some(DType::U8)]));
}

#[test]
fn dynamic_quantize() {
    for seed in 1..5 {
        let x = Random::new(seed).floats(&[3, 7]);
        let case = Case::onnx("DynamicQuantizeLinear", 21).input(x);
        check(&case.outputs(&[Some(DType::U8), Some(DType::F32), Some(DType::U8)]));
    }
}
