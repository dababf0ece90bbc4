//! Instructions of the inner loops, in assembly for fixed targets.

use qcc_codegen::{Output, Target, emit};
use qcc_kernels::KernelSpec;

/// Lines of assembly of a kernel, without directives and comments.
pub(crate) fn lines(target: &str, spec: &str) -> Vec<String> {
    let spec: KernelSpec = spec.parse().expect("a spec");
    let target = Target::parse(target).expect("a target");
    let text = emit(&[spec], &target, Output::Asm).expect("assembly");
    let text = String::from_utf8(text).expect("text");
    let lines = text.lines().map(|line| {
        // Comments of x86 begin with #, those of AArch64 with //.
        let end = line.find('#').filter(|_| !line.contains(", #")).unwrap_or(line.len());
        let end = line.find("//").unwrap_or(end);
        line[..end].trim().to_string()
    });
    let kept = |line: &String| !line.is_empty() && (!line.starts_with('.') || line.ends_with(':'));
    lines.filter(kept).collect()
}

/// Instructions of the innermost loop that has `dot` in it: from a label to the first jump back
/// to it.
pub(crate) fn inner_loop(lines: &[String], dot: &str) -> Vec<String> {
    let mut found: Option<Vec<String>> = None;
    for (start, line) in lines.iter().enumerate() {
        let Some(label) = line.strip_suffix(':') else { continue };
        let jumps = |line: &String| line.split_whitespace().last() == Some(label);
        let Some(length) = lines[start..].iter().position(jumps) else { continue };
        let body = &lines[start + 1..=start + length];
        let shorter = found.as_ref().is_none_or(|before| body.len() < before.len());
        let is_dot = |line: &String| {
            line.starts_with(dot)
                || line.strip_prefix("{vex}\t").is_some_and(|it| it.starts_with(dot))
        };
        if shorter && body.iter().any(is_dot) {
            found = Some(body.to_vec());
        }
    }
    found.expect("a loop of dot products")
}

pub(crate) fn count(lines: &[String], what: &str) -> usize {
    lines.iter().filter(|line| line.contains(what)).count()
}

/// Vector registers that are stored to the stack or read from it.
fn spills(lines: &[String]) -> Vec<&String> {
    let wide = |line: &&String| {
        (line.contains("(%rsp") && (line.contains("%zmm") || line.contains("%ymm")))
            || (line.contains("[sp") && line.contains("q"))
    };
    lines.iter().filter(wide).collect()
}

/// `vpdpbusd`: rows times tiles times 8 chunks per block; code loads: bits times tiles.
#[test]
fn avx512_vnni() {
    for (bits, vectors) in [(2, 2), (3, 3), (4, 4), (8, 8)] {
        for rows in 1..=6 {
            for tiles in [1, 2] {
                let spec = format!("qcc_mm_b{bits}_g32_m{rows}_t{tiles}_f16_a8_avx512vnni");
                let all = lines("x86-64-v4+avx512vnni", &spec);
                let inner = inner_loop(&all, "vpdpbusd");
                assert_eq!(count(&inner, "vpdpbusd"), rows * tiles * 8, "{spec}");
                let loads = count(&inner, "vmovdqa64") - copies(&inner);
                // A vector that only one instruction reads is an operand of that instruction.
                let folded = inner.iter().filter(|line| folded(line)).count();
                assert_eq!(loads + folded, vectors * tiles, "{spec}");
                // Six rows of 3 bits are a register short.
                let short = if (bits, rows, tiles) == (3, 6, 2) { 4 } else { 0 };
                assert!(spills(&all).len() <= short, "{spec}: {:?}", spills(&all));
                assert_eq!(count(&all, "gather") + count(&all, "vpmovzx"), 0, "{spec}");
                // Four multiplications and two conversions of scales a row and panel.
                assert_eq!(count(&inner, "vmulps"), rows * tiles, "{spec}");
                assert_eq!(count(&inner, "vfmadd"), rows * tiles, "{spec}");
                assert_eq!(count(&inner, "vcvtph2ps"), tiles, "{spec}");
            }
        }
    }
}

/// Copies of registers, which cost nothing.
fn copies(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with("vmovdqa64") && !line.contains('(')).count()
}

/// Whether an instruction other than a move reads a whole vector of codes from memory.
fn folded(line: &str) -> bool {
    let moves = ["vmov", "vpbroadcast", "vbroadcast", "vcvtph2ps"];
    line.starts_with('v')
        && line.contains("(%r")
        && line.contains("%zmm")
        && !line.contains("{1to16}")
        && !moves.iter().any(|m| line.starts_with(m))
}

/// With few rows codes stay where they are in their bytes: a mask per chunk and tile, no shift.
#[test]
fn codes_in_place() {
    let inner = |rows: usize| {
        let spec = format!("qcc_mm_b4_g32_m{rows}_t2_f16_a8_avx512vnni");
        inner_loop(&lines("x86-64-v4+avx512vnni", &spec), "vpdpbusd")
    };
    let one = inner(1);
    assert_eq!((count(&one, "vpand"), count(&one, "vpsrlw"), count(&one, "vpsrld")), (16, 0, 0));
    // The shift form: half of the chunks shifted.
    let six = inner(6);
    assert_eq!(count(&six, "vpand"), 16);
    assert_eq!(count(&six, "vpsrlw") + count(&six, "vpsrld") + count(&six, "vpsrlq"), 8);
}

/// Chunks 6 and 7 of 3 bits take one select (`vpternlog`) each.
#[test]
fn three_bits() {
    let all = lines("x86-64-v4+avx512vnni", "qcc_mm_b3_g32_m1_t2_f16_a8_avx512vnni");
    let inner = inner_loop(&all, "vpdpbusd");
    assert_eq!(count(&inner, "vpternlog"), 4);
    assert_eq!(spills(&all), Vec::<&String>::new());
}

/// Groups of several blocks are a loop over them, or stand one after another.
#[test]
fn blocks_of_a_group() {
    for (group, dots) in [("64", 64), ("128", 32), ("256", 32), ("n", 32)] {
        let spec = format!("qcc_mm_b4_g{group}_m2_t2_f16_a8_avx512vnni");
        let inner = inner_loop(&lines("x86-64-v4+avx512vnni", &spec), "vpdpbusd");
        assert_eq!(count(&inner, "vpdpbusd"), dots, "{spec}");
    }
}

/// The lane of the activations is part of the dot product, not an instruction.
#[test]
fn neon_dot_products() {
    for (target, isa, dot) in
        [("aarch64+dotprod", "neondot", "sdot"), ("aarch64+i8mm", "neoni8mm", "usdot")]
    {
        for rows in [1, 2, 4, 6] {
            let spec = format!("qcc_mm_b4_g32_m{rows}_t2_f16_a8_{isa}");
            let all = lines(target, &spec);
            let inner = inner_loop(&all, dot);
            let dots = inner.iter().filter(|line| line.starts_with(dot));
            assert!(dots.clone().all(|line| line.ends_with(']')), "{spec}");
            assert!(dots.count() >= 8 * rows, "{spec}");
            assert_eq!(count(&inner, "dup"), 0, "{spec}");
            assert_eq!(spills(&inner), Vec::<&String>::new(), "{spec}");
        }
    }
}

/// Codes of 8 bits without VNNI: activations become 16-bit numbers once for all registers of
/// columns that are worked on, and rows are done in parts that leave registers for two of them.
#[test]
fn widened_activations() {
    for (name, lines_of_part, registers) in [
        ("b8_g32_m1_t2_f16_a8", 1, 4),
        ("b8_g32_m4_t2_f16_a8", 4, 2),
        ("b8_g32_m6_t2_f16_a8", 3, 2),
        ("b8_g128_m6_t2_f16_asym_a8", 3, 2),
        ("b8_g32_m6_t2_f16_a15", 4, 2),
        ("b8_g32_m2_t2_f16_a22", 3, 2),
    ] {
        let inner = inner_loop(&lines("x86-64-v3", &format!("qcc_mm_{name}_avx2")), "vpmaddwd");
        // Two products a chunk; two shifts with the sign of even k, one of odd.
        assert_eq!(count(&inner, "vpmaddwd"), 8 * 2 * lines_of_part * registers, "{name}");
        assert_eq!(count(&inner, "vpsraw"), 8 * 2 * lines_of_part, "{name}");
    }
}
