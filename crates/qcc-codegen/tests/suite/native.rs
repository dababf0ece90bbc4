//! Kernels run by the CPU at hand, bit for bit what the definition gives.

use crate::absent::missing;
use crate::case::{Case, Shape, shapes};
use crate::oracle::expected;
use proptest::prelude::*;
use qcc_codegen::{CodegenError, Jit, Target};
use qcc_kernels::{Epilogue, Isa, KernelGroup, KernelSpec, Planes};
use qcc_quant::panel::{PanelBits, PanelScale};
use std::sync::LazyLock;

static JIT: LazyLock<Jit> = LazyLock::new(|| Jit::new().expect("LLVM for this CPU"));

/// What the CPU has; the rest is told once. Other architectures have tests of their own.
static ISAS: LazyLock<Vec<Isa>> = LazyLock::new(|| {
    let has = |isa: &Isa| match JIT.check(*isa) {
        Ok(()) => true,
        Err(CodegenError::WrongArchitecture { .. }) => false,
        Err(error) => {
            missing(&format!("kernels of {isa}"), &error.to_string());
            false
        }
    };
    Isa::ALL.iter().copied().filter(has).collect()
});

fn check(shape: &Shape) {
    let case = Case::new(shape);
    let y = case.run(JIT.kernel(&shape.spec).expect("a kernel"));
    let want = expected(&case);
    let y_row = case.y_row;
    let definition = case.run_definition();
    assert!(want.iter().zip(&definition).all(|(a, b)| a.to_bits() == b.to_bits()), "{shape:?}");
    for (at, (y, want)) in y.iter().zip(&want).enumerate() {
        assert!(
            y.to_bits() == want.to_bits(),
            "{} at row {}, column {}: {y}, not {want}, of {shape:?}",
            shape.spec,
            at / y_row,
            at % y_row
        );
    }
}

macro_rules! isas {
    ($($name:ident: $isa:expr,)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(24))]
            $(
                #[test]
                fn $name(shape in shapes($isa)) {
                    if ISAS.contains(&$isa) {
                        check(&shape);
                    }
                }
            )*
        }
    };
}

isas! {
    scalar: Isa::Scalar,
    avx2: Isa::Avx2,
    avx_vnni: Isa::AvxVnni,
    avx512: Isa::Avx512,
    avx512_vnni: Isa::Avx512Vnni,
    neon: Isa::Neon,
    neon_dot: Isa::NeonDot,
    neon_i8mm: Isa::NeonI8mm,
}

/// Every width, row count and group with the fastest instructions, where the counts of columns
/// around a tile are.
#[test]
fn all_rows_and_widths() {
    let isa = JIT.isa();
    for &bits in PanelBits::ALL {
        for rows in 1..=KernelSpec::MOST_ROWS {
            for (group, columns) in [(KernelGroup::Blocks(1), 31), (KernelGroup::Counted, 17)] {
                let spec = KernelSpec {
                    bits,
                    group,
                    rows,
                    tiles: 2,
                    scale: PanelScale::F16,
                    asymmetric: false,
                    planes: Planes::A8,
                    epilogue: Epilogue::None,
                    isa,
                };
                let shape = Shape {
                    spec,
                    steps: 3,
                    blocks: 3,
                    panels: 2,
                    columns,
                    extreme: rows % 2 == 0,
                    seed: u64::from(rows),
                };
                check(&shape);
            }
        }
    }
}

/// Scales of half precision that are subnormal, zero, the largest, infinite, not a number.
#[test]
fn halves_of_every_kind() {
    let kinds: [u16; 12] = [
        0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0x7bff, 0xfbff, 0x7c00, 0xfc00,
        0x7e01,
    ];
    for &isa in Isa::ALL.iter().filter(|isa| JIT.check(**isa).is_ok()) {
        let spec = format!("qcc_mm_b4_g32_m1_t1_f16_a8_{isa}").parse().expect("a spec");
        let shape =
            Shape { spec, steps: 1, blocks: 1, panels: 1, columns: 12, extreme: false, seed: 11 };
        let mut case = Case::new(&shape);
        for (column, kind) in kinds.iter().enumerate() {
            let at = case.code_bytes + 2 * column;
            case.weights[at..at + 2].copy_from_slice(&kind.to_le_bytes());
        }
        let y = case.run(JIT.kernel(&spec).expect("a kernel"));
        for (y, want) in y.iter().zip(expected(&case)) {
            assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "{isa}");
        }
        assert!(y[11].is_nan() && y[9].is_infinite() && y[2] != 0.0, "{isa}: {y:?}");
    }
}

#[test]
fn the_cpu_at_hand_has_a_best() {
    let target = Target::native().expect("a known CPU");
    assert_eq!(target.best(), JIT.isa());
    assert_eq!(target.isas().last(), Some(&Isa::Scalar));
}
