/* What programs that test an emitted library have in common. */
#ifndef QCC_TEST_CHECK_H
#define QCC_TEST_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

/* Memory that begins at a multiple of 64, which is not given back. */
static void *aligned(size_t bytes)
{
    char *raw = (char *)malloc(bytes + 64);
    CHECK(raw != NULL);
    return raw + (64 - (uintptr_t)raw % 64);
}

#endif
