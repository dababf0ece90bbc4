use super::*;

#[test]
fn names_of_functions() {
    assert_eq!(function_of("MatMulQ3"), Some((3, Beside::Zeros)));
    assert_eq!(function_of("MatMulQ8Sym"), Some((8, Beside::Nothing)));
    assert_eq!(function_of("MatMulQ5Outliers"), Some((5, Beside::Outliers)));
    let others = ["MatMulQ7Outliers", "MatMulQ3SymOutliers", "MatMulQOutliers"];
    for name in ["MatMulQ7", "MatMulQ", "MatMulQ+3", "MatMulQ03", "MatMulQ3Sy", "Other"]
        .iter()
        .chain(&others)
    {
        assert_eq!(function_of(name), None, "{name}");
    }
}

fn unpack(
    shape: Shape,
    codes: &[u8],
    scales: &[f32],
    zeros: Option<&[u8]>,
) -> Result<UnpackedWeight, Failure> {
    let bytes = |range: Range<usize>| {
        let part = codes.get(range).ok_or_else(|| Failure::wrong("short"))?;
        Ok(Cow::Borrowed(part))
    };
    let operands = Operands { codes: &bytes, scales, zeros, outliers: None };
    Ok(shape.unpack(&operands, 0..shape.n)?.weight)
}

/// The example of docs/ai-qcc.md.
#[test]
fn three_bits_of_the_documentation() {
    let shape = Shape { form: Form::Dense, n: 1, k: 9, bits: 3, block: 8 };
    let codes = [0x88, 0xc6, 0xfa, 0x91, 0x24, 0x49];
    let weight = unpack(shape, &codes, &[0.5, 2.0], Some(&[5, 2])).unwrap();
    assert_eq!(weight.codes, [0, 1, 2, 3, 4, 5, 6, 7, 1]);
    assert_eq!(weight.zeros.unwrap(), [5.0, 2.0]);
    assert!(shape.has_panels().is_err());
    assert!(unpack(shape, &codes[1..], &[0.5, 2.0], Some(&[5, 2])).is_err());
    assert!(unpack(shape, &codes, &[0.5], Some(&[5, 2])).is_err());
    assert!(unpack(shape, &codes, &[0.5, 2.0], Some(&[5])).is_err());
}

#[test]
fn five_bits_without_zero_points_move_to_the_middle() {
    let shape = Shape { form: Form::Dense, n: 1, k: 8, bits: 5, block: 8 };
    let codes = [0x41, 0x0c, 0x30, 0x44, 0x00];
    let weight = unpack(shape, &codes, &[1.0], None).unwrap();
    assert_eq!(weight.codes, [1, 2, 3, 0, 3, 2, 1, 0].map(|it| it + 128 - 16));
    assert!(weight.zeros.is_none());
    // With zero points they stay.
    let weight = unpack(shape, &codes, &[1.0], Some(&[9])).unwrap();
    assert_eq!((weight.codes[1], weight.zeros), (2, Some(vec![9.0])));
    let four = Shape { bits: 4, k: 6, ..shape };
    let codes = [0x21, 0x03, 0x23, 0x01];
    let weight = unpack(four, &codes, &[1.0], None).unwrap();
    assert_eq!(weight.codes, [1, 2, 3, 0, 3, 2]);
    assert!(weight.zeros.is_none());
}

/// Codes within 3 and 2 bits, with and without zero points, of one part and of several.
#[test]
fn weights_are_narrowed_as_a_whole() {
    let (k, block) = (64, 32);
    for n in [3, 2 * PART / k + 5] {
        for (moved, most, point) in [(4, 8, 8), (0, 4, 1), (6, 4, 8), (4, 8, 7), (0, 16, 8)] {
            let shape = Shape { form: Form::NBits, n, k, bits: 4, block };
            let code = |i: usize| (moved + (i * 7 + i / 64) % most) as u8;
            let codes: Vec<u8> =
                (0..n * k / 2).map(|i| code(2 * i) | code(2 * i + 1) << 4).collect();
            let scales: Vec<f32> = (0..n * 2).map(|i| 1.0 + (i % 9) as f32 / 8.0).collect();
            let zeros = vec![point | point << 4; n];
            let zeros = Some(zeros.as_slice());
            let bytes = |range: Range<usize>| Ok(Cow::Borrowed(&codes[range]));
            let operands = Operands { codes: &bytes, scales: &scales, zeros, outliers: None };
            let packed = pack(shape, &operands).unwrap().matrix;
            let (bits, codes, scales) = (4, &codes, &scales);
            let whole = NBitsWeight { n, k, bits, block, codes, scales, zeros };
            let whole = whole.unpack().unwrap().narrowed();
            let (layout, bytes) = whole.pack().unwrap();
            assert_eq!(*packed.layout(), layout, "{n} {moved} {most} {point}");
            assert_eq!(packed.bytes(), bytes);
        }
    }
}

/// Outliers leave the matrix, which without them fits in fewer bits, whatever the parts.
#[test]
fn outliers_are_taken_out() {
    let (k, block, bits) = (40, 32, 4u8);
    for n in [3, PART / k + 5] {
        let shape = Shape { form: Form::Dense, n, k, bits, block };
        let at = |i: usize| 5 + (i * i) % 7;
        let places: Vec<u64> =
            (0..n).flat_map(|it| [at(it), at(it) + 20].map(|k| (it * 64 + k) as u64)).collect();
        let code = |n: usize, k: usize| {
            let is_outlier = k == at(n) || k == at(n) + 20;
            if is_outlier { (n % 3 * 7) as u8 } else { 4 + (n + k) as u8 % 8 }
        };
        let bytes = (0..n * 32).map(|i| [i / 32, i % 32 * 2]).map(|[n, k]| {
            let codes = [k, k + 1].map(|k| if k < 40 { code(n, k) } else { 8 });
            codes[0] | codes[1] << 4
        });
        let bytes: Vec<u8> = bytes.collect();
        let scales: Vec<f32> = (0..n * 2).map(|it| 1.0 + (it % 5) as f32).collect();
        let own: Vec<f32> = scales.iter().map(|it| it * 4.0).collect();
        let gaps = qcc_quant::layout::gaps::pack(&places);
        let outliers = Outliers::read((n, k, block), &own, &gaps).unwrap();
        let codes = |range: Range<usize>| Ok(Cow::Borrowed(&bytes[range]));
        let (scales, outliers) = (&*scales, Some(&outliers));
        let operands = Operands { codes: &codes, scales, zeros: None, outliers };
        let packed = pack(shape, &operands).unwrap();
        assert_eq!(packed.matrix.layout().bits(), PanelBits::B3);
        let overlay = packed.overlay.unwrap();
        assert_eq!(overlay.len(), 2 * n);
        for n in [0, 1, n - 1] {
            let value = |k: usize| (k, (f32::from(code(n, k)) - 8.0) * own[2 * n + k / 32]);
            let want = [at(n), at(n) + 20].map(value);
            assert_eq!(overlay.column(n).collect::<Vec<_>>(), want);
        }
        let weight = packed.matrix.layout().unpack(packed.matrix.bytes()).unwrap();
        for (i, &left) in weight.codes.iter().enumerate() {
            let (n, k) = (i / k, i % k);
            let is_outlier = k == at(n) || k == at(n) + 20;
            assert_eq!(left, if is_outlier { 4 } else { code(n, k) - 4 });
        }
    }
}

/// The weight of a `DequantizeLinear` in both orders, of several parts.
#[test]
fn elements_in_either_order() {
    let (n, k) = (2 * PART / 300 + 3, 300);
    let code = |n: usize, k: usize| ((n * 3 + k * 5) % 16) as u8;
    let spread = Spread::Blocks(32);
    let mut seen = Vec::new();
    for order in [Order::Nk, Order::Kn] {
        let of = |i: usize| match order {
            Order::Nk => code(i / k, i % k),
            Order::Kn => code(i % n, i / n),
        };
        let bytes: Vec<u8> = (0..n * k / 2).map(|i| of(2 * i) | of(2 * i + 1) << 4).collect();
        let scale = |n: usize, b: usize| 1.0 + ((n + 3 * b) % 11) as f32;
        let scales: Vec<f32> = (0..n * 10)
            .map(|i| match order {
                Order::Nk => scale(i / 10, i % 10),
                Order::Kn => scale(i % n, i / n),
            })
            .collect();
        let form = Form::Linear { signed: false, order, spread };
        let shape = Shape { form, n, k, bits: 4, block: 32 };
        let codes = |range: Range<usize>| Ok(Cow::Borrowed(&bytes[range]));
        let operands = Operands { codes: &codes, scales: &scales, zeros: None, outliers: None };
        let packed = pack(shape, &operands).unwrap().matrix;
        let weight = packed.layout().unpack(packed.bytes()).unwrap();
        assert!((0..n * k).step_by(97).all(|i| weight.codes[i] == code(i / k, i % k)));
        assert!(weight.zeros.unwrap().iter().all(|it| *it == 0.0));
        assert!(shape.unpack(&Operands { scales: &scales[1..], ..operands }, 0..1).is_err());
        seen.push(packed.bytes().to_vec());
    }
    assert_eq!(seen[0], seen[1]);
}
