/*
 * Threads that open a library whose symbols begin with `model` and has its weights in it, all at
 * the same time, and run its products while one of them selects version after version. All get
 * the same results.
 */
#include "model.h" /* first: it needs nothing before it */

#include "check.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 8
#define ROUNDS 200
#define ROWS 7

struct thread {
    pthread_t id;
    int number;
    float *y[model_PRODUCTS];
};

static pthread_barrier_t barrier;

static void *work(void *argument)
{
    struct thread *it = (struct thread *)argument;
    int round, product, version = 0;
    pthread_barrier_wait(&barrier);
    CHECK(model_open(NULL, 0) == QCC_OK);
    CHECK(model_target() != NULL);
    for (round = 0; round < ROUNDS; round++) {
        for (product = 0; product < model_PRODUCTS; product++) {
            const struct qcc_product *p = &model_products[product];
            size_t n = ROWS * (size_t)p->n, k = ROWS * (size_t)p->k, i;
            float *x = (float *)malloc(4 * k), *y = (float *)malloc(4 * n);
            void *workspace = aligned(ROWS * (size_t)p->workspace_row);
            CHECK(x != NULL && y != NULL);
            for (i = 0; i < k; i++) {
                x[i] = (float)(i % 13) - 6.5f;
            }
            CHECK(p->quantize(x, ROWS, workspace, 0, 1) == QCC_OK);
            if (it->number == 0) {
                /* Between two steps: quantized rows are those of every version. */
                const char *name = model_library.targets[version];
                int code = model_select(name);
                CHECK(code == QCC_OK || (code == QCC_ERR_CPU && name != NULL));
                version = name == NULL ? 0 : version + 1;
            }
            CHECK(p->multiply(workspace, ROWS, y, 0, 1) == QCC_OK);
            free(x);
            if (it->y[product] == NULL) {
                it->y[product] = y;
            } else {
                CHECK(memcmp(it->y[product], y, 4 * n) == 0);
                free(y);
            }
        }
    }
    return NULL;
}

int main(void)
{
    static struct thread threads[THREADS];
    int i, product;
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (i = 0; i < THREADS; i++) {
        threads[i].number = i;
        CHECK(pthread_create(&threads[i].id, NULL, work, &threads[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i].id, NULL) == 0);
        for (product = 0; product < model_PRODUCTS; product++) {
            size_t n = ROWS * (size_t)model_products[product].n;
            CHECK(memcmp(threads[0].y[product], threads[i].y[product], 4 * n) == 0);
        }
    }
    return 0;
}
