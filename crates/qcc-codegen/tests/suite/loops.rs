//! What the inner loop of a kernel consists of, for every instruction set: instructions follow from
//! the spec and from how many columns are worked on at a time.

use crate::counts::{count, inner_loop, lines};
use qcc_kernels::{Epilogue, Isa, KernelGroup, KernelSpec};
use qcc_quant::panel::PanelScale;

/// An instruction set as its assembly is read.
struct Assembly {
    isa: Isa,
    target: &'static str,
    /// Columns of a register.
    lanes: usize,
    /// Dot products: the instruction, and how many a register of columns and a chunk of 4 k take.
    dot: (&'static str, usize),
    words: &'static Words,
    /// What a vector is called that is saved to memory or read back.
    vector: &'static str,
    /// Registers of other instruction sets.
    foreign: &'static [&'static str],
}

/// Words that instructions begin with.
struct Words {
    /// Sums of a product, rounded once.
    fused: &'static [&'static str],
    /// Floats from integers.
    integers: &'static str,
    /// Floats from halves.
    halves: &'static str,
    quotients: &'static str,
    calls: &'static str,
    /// Where saved registers lie.
    stack: &'static str,
}

const X86: &Words = &Words {
    fused: &["vfmadd", "vfnmadd"],
    integers: "vcvtdq2ps",
    halves: "vcvtph2ps",
    quotients: "vdivps",
    calls: "call",
    stack: "(%rsp",
};

const ARM: &Words = &Words {
    fused: &["fmla", "fmls"],
    integers: "scvtf",
    halves: "fcvtl",
    quotients: "fdiv",
    calls: "bl\t",
    stack: "[sp",
};

const fn x86(
    isa: Isa,
    target: &'static str,
    lanes: usize,
    dot: &'static str,
    vector: &'static str,
) -> Assembly {
    let foreign: &[&str] = if lanes == 16 { &[] } else { &["%zmm", "%ymm16", "%ymm31"] };
    Assembly { isa, target, lanes, dot: (dot, 1), words: X86, vector, foreign }
}

const fn arm(isa: Isa, target: &'static str, dot: (&'static str, usize)) -> Assembly {
    Assembly { isa, target, lanes: 4, dot, words: ARM, vector: "q", foreign: &[] }
}

const ASSEMBLIES: [Assembly; 7] = [
    x86(Isa::Avx512Vnni, "x86-64-v4+avx512vnni", 16, "vpdpbusd", "%zmm"),
    x86(Isa::Avx512, "x86-64-v4", 16, "vpmaddubsw", "%zmm"),
    x86(Isa::AvxVnni, "x86-64-v3+avxvnni", 8, "vpdpbusd", "%ymm"),
    x86(Isa::Avx2, "x86-64-v3", 8, "vpmaddubsw", "%ymm"),
    arm(Isa::NeonI8mm, "aarch64+i8mm", ("usdot", 1)),
    arm(Isa::NeonDot, "aarch64+dotprod", ("sdot", 1)),
    arm(Isa::Neon, "aarch64", ("smull", 2)),
];

/// A kernel without its instruction set; for each of them, in the order above, the columns that are
/// worked on at a time, and how many vectors the loop saves and reads back at most. Most save none:
/// what is more than a few is a register that the choice of columns does not count.
type Line = (&'static str, [(usize, usize); 7]);

#[rustfmt::skip]
const LINES: [Line; 14] = [
    ("b4_g32_m1_t2_f16_a8", [(32, 0), (32, 0), (16, 0), (16, 0), (16, 0), (16, 0), (16, 0)]),
    ("b4_g32_m4_t2_f16_a8", [(32, 0), (32, 26), (8, 0), (8, 8), (8, 0), (8, 0), (4, 0)]),
    ("b4_g32_m6_t2_f16_a8", [(32, 0), (16, 0), (8, 0), (8, 22), (4, 0), (4, 0), (4, 9)]),
    ("b4_g32_m2_t2_f16_a15", [(32, 0), (32, 28), (16, 4), (8, 0), (8, 0), (8, 0), (8, 12)]),
    ("b4_g32_m2_t2_f16_a22", [(32, 0), (16, 0), (8, 0), (8, 6), (8, 6), (8, 6), (4, 7)]),
    ("b4_g32_m2_t2_f16_asym_a8", [(32, 0), (32, 0), (16, 7), (8, 0), (16, 21), (16, 21), (8, 0)]),
    ("b4_g32_m2_t2_f16_asym_a22", [(32, 0), (16, 0), (8, 0), (8, 9), (8, 4), (8, 4), (4, 2)]),
    ("b4_g16_m2_t2_f16_a8", [(32, 0), (32, 0), (16, 22), (8, 0), (16, 12), (16, 12), (8, 0)]),
    ("b4_g64_m2_t2_f16_a8", [(32, 0), (32, 0), (16, 6), (16, 102), (16, 0), (16, 0), (8, 0)]),
    ("b4_g32_m2_t2_bf16_a8", [(32, 0), (32, 0), (16, 6), (8, 0), (16, 0), (16, 0), (8, 0)]),
    ("b4_g32_m2_t2_f32_asym_a8", [(32, 0), (32, 0), (16, 7), (8, 0), (16, 12), (16, 12), (8, 0)]),
    ("b2_g32_m2_t2_f16_a8", [(32, 0), (32, 0), (16, 11), (8, 0), (16, 0), (16, 0), (8, 0)]),
    ("b3_g32_m2_t2_f16_a8", [(32, 0), (32, 0), (16, 8), (8, 0), (16, 10), (16, 10), (8, 2)]),
    ("b4_g128_m3_t1_f16_a8", [(16, 0), (16, 0), (16, 0), (8, 0), (8, 0), (8, 0), (8, 0)]),
];

/// What is counted, by name.
type Counts = [(&'static str, usize); 6];

/// What the spec asks for.
fn expected(spec: &KernelSpec, it: &Assembly, columns: usize) -> Counts {
    let (rows, planes) = (usize::from(spec.rows), spec.planes.count() as usize);
    let registers = columns / it.lanes;
    // Of a group of more than two blocks the loop has one, and the scales come behind it.
    let (blocks, groups) = match spec.group {
        KernelGroup::Half => (1, 2),
        KernelGroup::Blocks(blocks @ ..=2) => (usize::from(blocks), 1),
        _ => (1, 0),
    };
    let asymmetric = usize::from(spec.asymmetric);
    let results = rows * registers * groups;
    let halves = usize::from(spec.scale == PanelScale::F16) + asymmetric;
    [
        ("dot products", rows * planes * registers * 8 * blocks * it.dot.1),
        // Planes are joined; scales, and zero points where they are stored.
        ("fused", results * (planes + asymmetric)),
        ("integers", results * planes),
        ("halves", halves * registers * groups),
        ("quotients", 0),
        ("gathers and calls", 0),
    ]
}

fn found(inner: &[String], it: &Assembly) -> Counts {
    [
        ("dot products", count(inner, it.dot.0)),
        ("fused", it.words.fused.iter().map(|word| count(inner, word)).sum()),
        ("integers", count(inner, it.words.integers)),
        ("halves", count(inner, it.words.halves)),
        ("quotients", count(inner, it.words.quotients)),
        ("gathers and calls", count(inner, "gather") + count(inner, it.words.calls)),
    ]
}

fn spec(name: &str, isa: Isa) -> KernelSpec {
    format!("qcc_mm_{name}_{isa}").parse().expect("a spec")
}

#[test]
fn inner_loops() {
    let mut wrong = Vec::new();
    for (name, of_isas) in LINES {
        for (it, (columns, most_saved)) in ASSEMBLIES.iter().zip(of_isas) {
            let spec = spec(name, it.isa);
            let all = lines(it.target, &spec.to_string());
            let inner = inner_loop(&all, it.dot.0);
            let (want, got) = (expected(&spec, it, columns), found(&inner, it));
            let is_saved =
                |line: &&String| line.contains(it.words.stack) && line.contains(it.vector);
            let saved = inner.iter().filter(is_saved).count();
            if want != got || saved > most_saved {
                wrong.push(format!("{spec}: {got:?}, not {want:?}; {saved} saved"));
            }
            let foreign = it.foreign.iter().map(|word| count(&all, word)).sum::<usize>();
            assert_eq!(foreign, 0, "{spec}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is done to results stands behind the loop, once for full panels and once for the last
/// columns; the loop stays what it is without.
#[test]
fn ends_are_behind_the_loop() {
    for it in &ASSEMBLIES {
        let plain = spec("b4_g32_m2_t2_f16_a8", it.isa);
        let inner = |spec: &KernelSpec| {
            let all = lines(it.target, &spec.to_string());
            let inner = found(&inner_loop(&all, it.dot.0), it);
            (inner, count(&all, it.words.quotients), count(&all, it.words.calls))
        };
        let (bare, ..) = inner(&plain);
        // Integers become floats once for each result.
        let results = bare[2].1;
        for &epilogue in Epilogue::ALL {
            let (with, quotients, calls) = inner(&plain.with_epilogue(epilogue));
            let divides = !matches!(epilogue.behind_bias(), Epilogue::None | Epilogue::Residual);
            assert_eq!(with, bare, "{epilogue} of {}", it.isa);
            assert_eq!(quotients, 2 * results * usize::from(divides), "{epilogue} of {}", it.isa);
            assert_eq!(calls, 0, "{epilogue} of {}", it.isa);
        }
    }
}

/// Kernels of any CPU call nothing where one instruction rounds a product and a sum, and fold each
/// group once.
#[test]
fn scalar_loops() {
    for (name, results) in
        [("b4_g32_m2_t2_f16_a8", 4), ("b4_g16_m1_t2_f32_asym_a8", 4), ("b3_g32_m1_t1_bf16_a22", 2)]
    {
        for (target, dot, words) in [("x86-64-v3", "vpmaddwd", X86), ("aarch64", "mla", ARM)] {
            let spec = spec(name, Isa::Scalar);
            let all = lines(target, &spec.to_string());
            let inner = inner_loop(&all, dot);
            let (planes, asymmetric) = (spec.planes.count() as usize, usize::from(spec.asymmetric));
            let groups = if spec.group == KernelGroup::Half { 2 } else { 1 };
            let fused: usize = words.fused.iter().map(|word| count(&inner, word)).sum();
            assert_eq!(fused, results * groups * (planes + asymmetric), "{spec} for {target}");
            assert_eq!(count(&inner, words.integers), results * groups * planes, "{spec}");
            assert_eq!(count(&all, words.calls), 0, "{spec} for {target}");
        }
    }
}
