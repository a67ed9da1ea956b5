/* Products of small matrices with sixteen floats at a time, where the processor has AVX-512.

   Every sum adds the same products in the same order as multiply_6x16: results are equal bit by bit. What more
   registers buy is that each number read from memory is used more often. */
#ifndef NEMO_PI_WIDE_H
#define NEMO_PI_WIDE_H

#include "simd.h"

#define AVX512 __attribute__((target("avx512f")))

/* `rows` rows of `panels` times 16 columns; both are constants, so the sums stay in registers. */
AVX512 INLINE void multiply_panels(Left a, Right b, int64_t inner, float *c, int64_t c_row, int add, const int rows,
                                   const int panels) {
  __m512 sum[12][4];
#pragma GCC unroll 12
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < panels; j++)
      sum[i][j] = add ? _mm512_loadu_ps(c + i * c_row + 16 * j) : _mm512_setzero_ps();
  for (int64_t k = 0; k < inner; k++) {
    __m512 right[4];
#pragma GCC unroll 4
    for (int j = 0; j < panels; j++) right[j] = _mm512_loadu_ps(b.data + j * b.columns);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
      const __m512 factor = _mm512_set1_ps(a.data[i * a.row]);
#pragma GCC unroll 4
      for (int j = 0; j < panels; j++) sum[i][j] = _mm512_fmadd_ps(factor, right[j], sum[i][j]);
    }
    a.data += a.inner;
    b.data += b.inner;
  }
#pragma GCC unroll 12
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < panels; j++) _mm512_storeu_ps(c + i * c_row + 16 * j, sum[i][j]);
}

/* c = a·b, or c += a·b: `rows` a multiple of 24, `columns` of 16. At most 24 of the 32 registers hold sums. */
AVX512 static void multiply_wide(Left a, Right b, int64_t rows, int64_t columns, int64_t inner, float *c,
                                 int64_t c_row, int add) {
  int64_t panels;
  for (int64_t left = columns / 16; left > 0; left -= panels) {
    panels = left == 5 ? 3 : left < 4 ? left : 4; /* five as 3 + 2: a single panel keeps the units less busy */
    const int64_t step = panels == 4 ? 6 : panels == 3 ? 8 : 12;
    for (int64_t i = 0; i < rows; i += step) {
      const Left some = {a.data + i * a.row, a.row, a.inner};
      float *at = c + i * c_row;
      if (panels == 4) multiply_panels(some, b, inner, at, c_row, add, 6, 4);
      else if (panels == 3) multiply_panels(some, b, inner, at, c_row, add, 8, 3);
      else if (panels == 2) multiply_panels(some, b, inner, at, c_row, add, 12, 2);
      else multiply_panels(some, b, inner, at, c_row, add, 12, 1);
    }
    b.data += panels * b.columns;
    c += 16 * panels;
  }
}

/* Whether the processor has AVX-512; kernels/native.py sets it once, before the first call. */
extern int nemo_pi_wide;

/* The fastest product that this processor can do. */
INLINE void multiply_fastest(Left a, Right b, int64_t rows, int64_t columns, int64_t inner, float *c, int64_t c_row,
                             int add) {
  if (nemo_pi_wide) multiply_wide(a, b, rows, columns, inner, c, c_row, add);
  else multiply(a, b, rows, columns, inner, c, c_row, add);
}

#endif
