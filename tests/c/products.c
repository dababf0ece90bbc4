/*
 * Runs products of a library whose symbols begin with `model`:
 *
 *     products WEIGHTS CASES RESULTS
 *
 * CASES is of each case four numbers of 32 bits, product, rows, parts and a sum of what is done:
 * 1 quantizes rows in a step of its own, 2 takes the functions with the end, 4 has what the end
 * reads where the results go. Then x, and with an end what it reads. RESULTS is y of each case.
 * WEIGHTS is the file of weights, or - if they are in the library. Before that it calls
 * everything with what is wrong and looks at the codes. Status 3: the CPU lacks a feature.
 *
 * The code for every other target of the library that the CPU runs has to give the same results.
 * The program prints the target that was picked, then all whose code it ran.
 */
#include "model.h" /* first: it needs nothing before it */

#include "check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *whole_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    long size;
    void *data;
    CHECK(file != NULL);
    CHECK(fseek(file, 0, SEEK_END) == 0);
    size = ftell(file);
    CHECK(size >= 0 && fseek(file, 0, SEEK_SET) == 0);
    data = aligned((size_t)size);
    CHECK(fread(data, 1, (size_t)size, file) == (size_t)size);
    fclose(file);
    *bytes = (size_t)size;
    return data;
}

static void check_weights(char *weights, size_t bytes)
{
    const struct qcc_product *last = &model_products[model_library.count - 1];
    size_t need = (size_t)(last->weights_at + 4096 + last->weights_bytes);
    CHECK(bytes >= need && bytes == model_library.weights_bytes);
    CHECK(model_open(NULL, bytes) == QCC_ERR_NULL);
    CHECK(model_open(weights + 1, bytes - 1) == QCC_ERR_ALIGN);
    CHECK(model_open(weights, 0) == QCC_ERR_SHORT);
    CHECK(model_open(weights, 63) == QCC_ERR_SHORT);
    CHECK(model_open(weights, need - 1) == QCC_ERR_SHORT);
    weights[last->weights_at] ^= 1;
    CHECK(model_open(weights, bytes) == QCC_ERR_MAGIC);
    weights[last->weights_at] ^= 1;
    weights[last->weights_at + 4] ^= 2;
    CHECK(model_open(weights, bytes) == QCC_ERR_VERSION);
    weights[last->weights_at + 4] ^= 2;
    weights[16] ^= 1;
    CHECK(model_open(weights, bytes) == QCC_ERR_SHAPE);
    weights[16] ^= 1;
}

/* Everything is refused before the library is open. */
static void check_closed(const struct qcc_product *p)
{
    float *x = (float *)aligned((size_t)(4 * (p->k + p->n)));
    void *workspace = aligned((size_t)p->workspace_row);
    CHECK(p->run(x, 1, x + p->k, workspace, 0, 1) == QCC_ERR_CLOSED);
    CHECK(p->quantize(x, 1, workspace, 0, 1) == QCC_ERR_CLOSED);
    CHECK(p->multiply(workspace, 1, x + p->k, 0, 1) == QCC_ERR_CLOSED);
}

/* Whether its end reads extra. */
static int reads_extra(const struct qcc_product *p)
{
    return p->end == QCC_END_RESIDUAL || p->end == QCC_END_BIAS_RESIDUAL ||
           p->end == QCC_END_SILU_MUL || p->end == QCC_END_BIAS_SILU_MUL;
}

static void check_operands(const struct qcc_product *p)
{
    float *x = (float *)aligned((size_t)(4 * (p->k + p->n)));
    float *y = x + p->k;
    char *workspace = (char *)aligned((size_t)p->workspace_row + 64);
    const float *off = (const float *)(const void *)((const char *)x + 2);
    memset(x, 0, (size_t)(4 * (p->k + p->n)));
    CHECK(p->run(NULL, 1, y, workspace, 0, 1) == QCC_ERR_NULL);
    CHECK(p->run(x, 1, NULL, workspace, 0, 1) == QCC_ERR_NULL);
    CHECK(p->run(x, 1, y, NULL, 0, 1) == QCC_ERR_NULL);
    CHECK(p->run(x, 1, y, workspace + 32, 0, 1) == QCC_ERR_ALIGN);
    CHECK(p->run(off, 1, y, workspace, 0, 1) == QCC_ERR_ALIGN);
    CHECK(p->run(x, 1, y, workspace, 1, 1) == QCC_ERR_PART);
    CHECK(p->run(x, 1, y, workspace, 0, 0) == QCC_ERR_PART);
    CHECK(p->run(x, 1, y, workspace, 0, 65537) == QCC_ERR_PART);
    CHECK(p->run(x, SIZE_MAX, y, workspace, 0, 1) == QCC_ERR_ROWS);
    CHECK(p->run(x, SIZE_MAX / 8, y, workspace, 0, 1) == QCC_ERR_ROWS);
    CHECK(p->run(NULL, 0, NULL, NULL, 0, 1) == QCC_OK);
    CHECK(p->quantize(NULL, 1, workspace, 0, 1) == QCC_ERR_NULL);
    CHECK(p->quantize(x, 1, workspace, 2, 2) == QCC_ERR_PART);
    CHECK(p->multiply(workspace, 1, y, 65536, 65536) == QCC_ERR_PART);
    CHECK(p->multiply(workspace, 1, NULL, 0, 1) == QCC_ERR_NULL);
    CHECK((p->run_end == NULL) == (p->end == QCC_END_NONE));
    CHECK((p->multiply_end == NULL) == (p->end == QCC_END_NONE));
    CHECK(p->factor == QCC_NO_PRODUCT || p->end == QCC_END_SILU_MUL || p->end == QCC_END_BIAS_SILU_MUL);
    if (p->end != QCC_END_NONE) {
        CHECK(p->run_end(NULL, 1, y, y, workspace, 0, 1) == QCC_ERR_NULL);
        CHECK(p->multiply_end(workspace, 1, y, NULL, 0, 1) == QCC_ERR_NULL);
        CHECK(p->multiply_end(workspace, 1, y, y, 1, 1) == QCC_ERR_PART);
    }
    if (reads_extra(p)) {
        CHECK(p->run_end(x, 1, NULL, y, workspace, 0, 1) == QCC_ERR_NULL);
        CHECK(p->multiply_end(workspace, 1, off, y, 0, 1) == QCC_ERR_ALIGN);
        CHECK(p->run_end(NULL, 0, NULL, NULL, NULL, 0, 1) == QCC_OK);
    }
    /* A part without a column of its own is no error. */
    CHECK(p->run(x, 1, y, workspace, 65535, 65536) == QCC_OK);
}

/* A part of one product writes the places that the part of another one with as many columns does. */
static void check_parts(const struct qcc_product *p, const struct qcc_product *q)
{
    size_t rows = 20, parts = 5, part, i, count = rows * (size_t)p->n;
    float *x = (float *)aligned(4 * rows * (size_t)(p->k > q->k ? p->k : q->k));
    float *y = (float *)aligned(4 * count), *z = (float *)aligned(4 * count);
    char *workspace = (char *)aligned(rows * (size_t)(p->workspace_row + q->workspace_row));
    memset(x, 0, 4 * rows * (size_t)(p->k > q->k ? p->k : q->k));
    for (part = 0; part < parts; part++) {
        for (i = 0; i < count; i++) {
            y[i] = z[i] = 12345.0f;
        }
        CHECK(p->run(x, rows, y, workspace, part, parts) == QCC_OK);
        CHECK(q->run(x, rows, z, workspace, part, parts) == QCC_OK);
        for (i = 0; i < count; i++) {
            CHECK((y[i] == 12345.0f) == (z[i] == 12345.0f));
        }
    }
}

/* Names that the library does not have are refused, and change nothing. */
static void check_names(const char *picked)
{
    const char *const *it;
    char name[128];
    CHECK(model_select("") == QCC_ERR_TARGET);
    CHECK(model_select("x86") == QCC_ERR_TARGET);
    for (it = model_library.targets; *it != NULL; it++) {
        size_t length = strlen(*it);
        CHECK(length + 2 < sizeof name);
        memcpy(name, *it, length + 1);
        name[length - 1] ^= 8;
        CHECK(model_select(name) == QCC_ERR_TARGET);
        memcpy(name, *it, length);
        memcpy(name + length, "+", 2);
        CHECK(model_select(name) == QCC_ERR_TARGET);
    }
    CHECK((picked == NULL) == (model_missing() != NULL));
    CHECK(model_target() == picked && model_library.picked() == picked);
}

/* Whether all numbers are the same bits, or both NaN. */
static int are_same(const float *a, const float *b, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0 && (a[i] == a[i] || b[i] == b[i])) {
            return 0;
        }
    }
    return 1;
}

/* One case with what is selected. */
static void run_case(const struct qcc_product *p, const uint32_t *head, const float *x,
                     const float *extra, float *y)
{
    size_t rows = head[1], parts = head[2], part, i;
    int has_end = (head[3] & 2) != 0;
    char *workspace = (char *)aligned(rows * (size_t)p->workspace_row + 1);
    for (i = 0; i <= rows * p->n; i++) {
        y[i] = 12345.0f;
    }
    if (head[3] & 4) {
        memcpy(y, extra, 4 * rows * (size_t)p->n);
        extra = y;
    }
    if (!reads_extra(p)) {
        extra = NULL;
    }
    memset(workspace, 0x5a, rows * (size_t)p->workspace_row + 1);
    if (head[3] & 1) {
        for (part = 0; part < parts; part++) {
            CHECK(p->quantize(x, rows, workspace, part, parts) == QCC_OK);
        }
        for (part = parts; part-- > 0;) {
            CHECK((has_end ? p->multiply_end(workspace, rows, extra, y, part, parts)
                           : p->multiply(workspace, rows, y, part, parts)) == QCC_OK);
        }
    } else {
        for (part = 0; part < parts; part++) {
            CHECK((has_end ? p->run_end(x, rows, extra, y, workspace, part, parts)
                           : p->run(x, rows, y, workspace, part, parts)) == QCC_OK);
        }
    }
    /* Nothing beyond the end. */
    CHECK(y[rows * p->n] == 12345.0f);
    CHECK(workspace[rows * (size_t)p->workspace_row] == 0x5a);
}

static void run_cases(FILE *cases, FILE *results)
{
    uint32_t head[4];
    const char *picked = model_target();
    while (fread(head, sizeof head, 1, cases) == 1) {
        const struct qcc_product *p;
        const char *const *it;
        size_t rows = head[1];
        float *x, *extra, *y, *other;
        CHECK(head[0] < model_library.count);
        p = &model_library.products[head[0]];
        x = (float *)aligned(4 * rows * (size_t)p->k);
        y = (float *)aligned(4 * (rows * (size_t)p->n + 1));
        other = (float *)aligned(4 * (rows * (size_t)p->n + 1));
        extra = (float *)aligned(4 * (rows * (size_t)p->n + 1));
        CHECK(fread(x, 4 * (size_t)p->k, rows, cases) == rows);
        if (head[3] & 2) {
            CHECK(fread(extra, 4 * (size_t)p->n, rows, cases) == rows);
        }
        run_case(p, head, x, extra, y);
        for (it = model_library.targets; *it != NULL; it++) {
            int code = model_select(*it);
            CHECK(code == QCC_OK || code == QCC_ERR_CPU);
            if (code == QCC_OK) {
                CHECK(strcmp(model_target(), *it) == 0);
                run_case(p, head, x, extra, other);
                CHECK(are_same(y, other, rows * (size_t)p->n));
            }
        }
        CHECK(model_select(NULL) == QCC_OK && model_target() == picked);
        CHECK(fwrite(y, 4 * (size_t)p->n, rows, results) == rows);
    }
    CHECK(feof(cases));
}

int main(int count, char **arguments)
{
    char *weights = NULL;
    const char *const *target;
    size_t bytes = 0;
    uint64_t i;
    FILE *cases, *results;
    int code;
    CHECK(count == 4);
    CHECK(model_abi == QCC_AOT_ABI && model_library.abi == QCC_AOT_ABI);
    CHECK(model_library.product_bytes == sizeof(struct qcc_product));
    CHECK(model_library.count == model_PRODUCTS && model_library.products == model_products);
    CHECK(strcmp(qcc_code_text(QCC_OK), "done") == 0);
    CHECK(strcmp(qcc_code_text(-1), "no code of qcc") == 0);
    check_closed(&model_products[0]);
    check_names(model_target());
    for (i = 0; model_library.targets[i] != NULL; i++) {
    }
    CHECK(i == model_TARGETS);
    if (model_missing() != NULL) {
        CHECK(model_select(NULL) == QCC_ERR_CPU);
        CHECK(model_select(model_library.targets[0]) == QCC_ERR_CPU);
        CHECK(model_open(NULL, 0) == QCC_ERR_CPU);
        check_closed(&model_products[0]);
        fprintf(stderr, "%s is missing\n", model_missing());
        return 3;
    }
    if (strcmp(arguments[1], "-") != 0) {
        weights = (char *)whole_file(arguments[1], &bytes);
        check_weights(weights, bytes);
        check_closed(&model_products[0]);
    } else {
        CHECK(model_library.weights_bytes == 0);
    }
    code = model_open(weights, bytes);
    if (code != QCC_OK) {
        fprintf(stderr, "%s\n", qcc_code_text(code));
        return 1;
    }
    CHECK(model_library.open(weights, bytes) == QCC_OK);
    for (i = 0; i < model_library.count; i++) {
        check_operands(&model_products[i]);
        if (i > 0 && model_products[i - 1].n == model_products[i].n) {
            check_parts(&model_products[i - 1], &model_products[i]);
        }
    }
    check_names(model_target());
    printf("%s", model_target());
    for (target = model_library.targets; *target != NULL; target++) {
        if (model_select(*target) == QCC_OK) {
            printf(" %s", *target);
        }
    }
    printf("\n");
    CHECK(model_select(NULL) == QCC_OK);
    cases = fopen(arguments[2], "rb");
    results = fopen(arguments[3], "wb");
    CHECK(cases != NULL && results != NULL);
    run_cases(cases, results);
    CHECK(fclose(results) == 0);
    return 0;
}
