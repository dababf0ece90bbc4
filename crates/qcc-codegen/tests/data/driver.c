// Runs kernels of an object file on operands from a file and writes what they leave in `y`.
//
//   driver OPERANDS RESULTS
//
// OPERANDS: for each case the number of its kernel in `kernels`, eleven numbers, eight operands,
// each behind its length in bytes. Numbers are 64 bits.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct args {
  const void *weights;
  uint64_t panels, panel_stride, groups, group_blocks;
  const void *acts;
  uint64_t act_row, act_plane;
  const void *act_scales, *act_init, *act_sums;
  uint64_t act_group_row, act_group_plane;
  void *y;
  uint64_t y_row, columns;
  const void *bias, *extra;
  uint64_t extra_row;
  const void *spec;
};

typedef void kernel(const struct args *);
extern kernel *const kernels[];

static FILE *in;

static int number(uint64_t *value) { return fread(value, sizeof *value, 1, in) == 1; }

static void *operand(uint64_t *length) {
  if (!number(length)) exit(3);
  void *bytes = aligned_alloc(64, (*length + 127) & ~(uint64_t)63);
  if (fread(bytes, 1, *length, in) != *length) exit(4);
  return bytes;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  in = fopen(argv[1], "rb");
  FILE *out = fopen(argv[2], "wb");
  uint64_t which, n[11], length[8];
  while (number(&which)) {
    for (int i = 0; i < 11; i++)
      if (!number(&n[i])) return 5;
    void *o[8];
    for (int i = 0; i < 8; i++) o[i] = operand(&length[i]);
    struct args args = {o[0], n[0], n[1], n[2], n[3], o[1],  n[4], n[5], o[2], o[3],
                        o[4], n[6], n[7], o[5], n[8], n[9],  o[6], o[7], n[10], 0};
    kernels[which](&args);
    fwrite(o[5], 1, length[5], out);
    for (int i = 0; i < 8; i++) free(o[i]);
  }
  return fclose(out) != 0;
}
