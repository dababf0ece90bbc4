//! The C header of a library: C99 and C++, without warnings.

use super::{Entry, Library, Storage, abi};
use std::fmt::Write as _;

/// What is the same in the header of every library, behind a guard, so that a program may
/// include several.
const COMMON: &str = r#"
#ifndef QCC_AOT_ABI
#define QCC_AOT_ABI @ABI@u

/* What functions return. */
enum qcc_code {
@CODES@
};

/* The meaning of a code. */
static inline const char *qcc_code_text(int code)
{
    switch (code) {
@TEXTS@
    default: return "no code of qcc";
    }
}

/* What the model does with the result y of a product, as far as functions here do it too. A later
   qcc may know more. */
enum qcc_end {
@ENDS@
};

/* Of a product that reads the results of none. */
#define QCC_NO_PRODUCT ((uint64_t)-1)

/*
 * One product, y[rows][n] = x[rows][k] W^T, with the bias of the model where it has one.
 *
 * workspace: 64-byte aligned, at least rows * workspace_row bytes, not read before it is written.
 * part, parts: threads share a product; part 0 to parts - 1, of one call each. One thread: 0, 1.
 * Functions may be called by any number of threads at the same time.
 */
struct qcc_product {
    const char *name;          /* of the node in the model */
    uint64_t k, n;
    uint32_t bits;             /* of a code */
    uint32_t group;            /* codes along k that share a scale */
    uint32_t planes;           /* of 8 bits that activations are kept in */
    uint32_t activations;      /* products of one number may share quantized rows */
    uint32_t has_bias;
    uint32_t end;              /* enum qcc_end */
    uint64_t workspace_row;
    uint64_t weights_at;       /* of its record in the file of weights */
    uint64_t weights_bytes;    /* of its panels */
    /* Quantizes all rows into the workspace, which the caller shares with no other thread, and
       computes one part of y. */
    int (*run)(const float *x, size_t rows, float *y, void *workspace, size_t part, size_t parts);
    /* The same in two steps. Quantizes one part of the rows; when all are done, y follows part by
       part. Also for other products with the same number of activations. */
    int (*quantize)(const float *x, size_t rows, void *workspace, size_t part, size_t parts);
    int (*multiply)(const void *workspace, size_t rows, float *y, size_t part, size_t parts);
    uint64_t outliers;         /* weights beside the packed ones */
    uint64_t factor;           /* number of the product whose results are extra of SILU_MUL */
    /* run and multiply with the end; null where it is QCC_END_NONE. extra: [rows][n] for RESIDUAL
       and SILU_MUL, with a bias or without, and may be y itself; else it is not read. */
    int (*run_end)(const float *x, size_t rows, const float *extra, float *y, void *workspace,
                   size_t part, size_t parts);
    int (*multiply_end)(const void *workspace, size_t rows, const float *extra, float *y,
                        size_t part, size_t parts);
};

struct qcc_library {
    uint32_t abi;              /* QCC_AOT_ABI of the library; another one: do not use the rest */
    uint32_t product_bytes;    /* sizeof (struct qcc_product) */
    uint64_t count;
    const struct qcc_product *products;
    const char *target;        /* what the code was compiled for: names, commas between them */
    uint64_t weights_bytes;    /* of the file of weights; 0: they are in the library */
    int (*open)(const void *weights, size_t bytes);
    const char *(*missing)(void);
    const char *const *targets; /* each of them, the best first, then a null pointer */
    const char *(*picked)(void);
    int (*select)(const char *target);
};

#endif /* QCC_AOT_ABI */

#if QCC_AOT_ABI != @ABI@u
#error "headers of two versions of qcc in one program"
#endif
"#;

impl Library {
    /// The C header. `file_name` is what the file of weights is called.
    #[must_use]
    pub fn header(&self, file_name: &str) -> String {
        let Self { prefix, .. } = self;
        let (mut codes, mut texts) = (String::new(), String::new());
        for (name, number, text) in abi::CODES {
            let comma = if *number as usize + 1 < abi::CODES.len() { "," } else { "" };
            let _ = writeln!(codes, "    {name} = {number}{comma}");
            let _ = writeln!(texts, "    case {name}: return \"{text}\";");
        }
        let mut ends = String::new();
        for (i, (name, text)) in abi::ENDS.iter().enumerate() {
            let comma = if i + 1 < abi::ENDS.len() { "," } else { "" };
            let _ = writeln!(ends, "    {:<30} /* {text} */", format!("{name} = {i}{comma}"));
        }
        let common = COMMON
            .replace("@ENDS@", ends.trim_end())
            .replace("@ABI@", &abi::VERSION.to_string())
            .replace("@CODES@", codes.trim_end())
            .replace("@TEXTS@", texts.trim_end());
        let open = match self.storage {
            Storage::Inline => "Weights are in the library: both arguments are ignored.".to_owned(),
            Storage::File => format!(
                "Takes the bytes of {file_name}, aligned to 64 bytes; they must stay where they \
                 are.",
                file_name = comment(file_name)
            ),
        };
        let products: String = self.entries.iter().map(|it| self.product(it)).collect();
        format!(
            "/* Made by qcc {version} for {target}. See docs/aot.md of qcc. */
#ifndef {prefix}_QCC_H
#define {prefix}_QCC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern \"C\" {{
#endif
{common}
#define {prefix}_PRODUCTS {count}
#define {prefix}_TARGETS {targets}
#define {prefix}_WEIGHTS_BYTES {bytes}u

/* All of them, in the order of the model; and what a program that loads the library looks up. */
extern const struct qcc_product {prefix}_products[{count}];
extern const struct qcc_library {prefix}_library;
extern const uint32_t {prefix}_abi;

/*
 * To be called before any product; products of a library that is not open give QCC_ERR_CLOSED.
 * Looks at the CPU first: QCC_ERR_CPU. A second call is no error.
 * {open}
 */
int {prefix}_open(const void *weights, size_t bytes);

/* Another library than that of this header is not asked: {other}. */
#define {prefix}_open(weights, bytes) \
    ({prefix}_abi == QCC_AOT_ABI && {prefix}_library.count == {prefix}_PRODUCTS \
        ? ({prefix}_open)(weights, bytes) : {other})

/* A feature that this CPU lacks{lacks}, or a null pointer. */
const char *{prefix}_missing(void);

/*
 * The target whose code products run, or would run if the library were open; a null pointer if
 * the CPU runs none of them. It is the best one that the CPU has all of, found once.
 */
const char *{prefix}_target(void);

/*
 * Takes the code for another target of the library from now on, for calls that begin later, in
 * all threads; a null pointer: the best again. Results are the same. QCC_ERR_CPU: this CPU
 * cannot run it; QCC_ERR_TARGET: there is no code for it. Before {prefix}_open or after it.
 */
int {prefix}_select(const char *target);

/* Products: as run, quantize, multiply, run_end and multiply_end of struct qcc_product. */
{products}
#ifdef __cplusplus
}}
#endif

#endif /* {prefix}_QCC_H */
",
            version = env!("CARGO_PKG_VERSION"),
            target = self.targets,
            targets = self.targets.all().len(),
            lacks = if self.targets.all().len() > 1 { ", whatever version is taken" } else { "" },
            count = self.entries.len(),
            other = abi::CODES[abi::Code::Library as usize].0,
            bytes = match self.storage {
                Storage::Inline => 0,
                Storage::File => self.file_bytes,
            },
        )
    }

    /// Constants and functions of one product.
    fn product(&self, entry: &Entry) -> String {
        let Entry { product, symbol, shape, .. } = entry;
        let beside = match product.overlay.as_ref().map_or(0, |it| it.len()) {
            0 => String::new(),
            count => format!(", {count} outliers"),
        };
        format!(
            "
/* {name}: k = {k}, n = {n}, {bits} bits, groups of {group}{beside} */
#define {symbol}_WORKSPACE_ROW {row}u
int {symbol}(const float *x, size_t rows, float *y, void *workspace, size_t part, size_t parts);
int {symbol}_quantize(const float *x, size_t rows, void *workspace, size_t part, size_t parts);
int {symbol}_multiply(const void *workspace, size_t rows, float *y, size_t part, size_t parts);
{end}",
            name = comment(&product.name),
            k = shape.k,
            n = shape.n,
            bits = product.matrix.layout().bits(),
            group = shape.group,
            row = shape.row,
            end = self.end(entry),
        )
    }

    /// The functions of a product with what the model does with it.
    fn end(&self, entry: &Entry) -> String {
        let Entry { product, symbol, .. } = entry;
        let Some(end) = &product.end else { return String::new() };
        let factor = end.factor.and_then(|it| self.entries.get(it));
        let (_, text) = abi::ENDS[end.epilogue as usize];
        let text = match factor {
            Some(up) => format!("{text}, which is the result of {}", up.symbol),
            None => text.to_owned(),
        };
        format!(
            "/* With its end, {text}. */
int {symbol}_end(const float *x, size_t rows, const float *extra, float *y, void *workspace,
    size_t part, size_t parts);
int {symbol}_multiply_end(const void *workspace, size_t rows, const float *extra, float *y,
    size_t part, size_t parts);
"
        )
    }
}

/// `text` as part of a comment: nothing in it ends the line or the comment, or makes a compiler
/// warn.
fn comment(text: &str) -> String {
    let plain = |c: char| match c {
        '*' | '\\' | '?' => '.',
        c if c.is_ascii_graphic() || c == ' ' => c,
        _ => '.',
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::tests::library;

    #[test]
    fn headers_say_what_there_is() {
        let text = library(Storage::File).header("model.qpk");
        for line in [
            "#define QCC_AOT_ABI 1u",
            "#define model_q4_TARGETS 1",
            "int model_q4_select(const char *target);",
            "    QCC_ERR_LIBRARY = 12\n};",
            "extern const struct qcc_product model_q4_products[3];",
            "/* /layers.0/down: k = 128, n = 64, 4 bits, groups of 32 */",
            "#define model_q4_layers_0_q_WORKSPACE_ROW 192u",
            "int model_q4_layers_0_k_multiply(const void *workspace,",
            "Takes the bytes of model.qpk,",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(library(Storage::Inline).header("").contains("#define model_q4_WEIGHTS_BYTES 0u"));
    }

    #[test]
    fn names_do_not_end_comments() {
        assert_eq!(comment("a */ int x;\n\\ ??/ /* ü"), "a ./ int x;.. ../ /. .");
    }
}
