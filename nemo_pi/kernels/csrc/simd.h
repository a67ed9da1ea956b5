/* Eight floats at a time (AVX2 and FMA), and the loops that all kernels here are made of. */
#ifndef NEMO_PI_SIMD_H
#define NEMO_PI_SIMD_H

#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define LOG2_E 1.4426950408889634f

/* 2^x for x <= 0, 0 below -126; what is no number stays none. Relative error about 2^-23.

   x = n + f with |f| <= 1/2; 2^f by its Taylor polynomial, 2^n by adding n to the exponent. */
INLINE __m256 exp2_8(__m256 x) {
  const __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 f = _mm256_sub_ps(x, n);
  __m256 p = _mm256_set1_ps(1.5403530e-4f); /* ln(2)^6 / 6! */
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.3333558e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.6181291e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.5504109e-2f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.4022651e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.9314718e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  const __m256 power = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
  return _mm256_and_ps(power, _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ));
}

INLINE float sum_8(__m256 x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

INLINE float max_8(__m256 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/* All bits set where the number of a lane, counted from `first`, is below `end`. */
INLINE __m256 lanes_below(int first, int end) {
  const __m256i lane = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
}

/* Columns 0 to 7 of eight rows become rows: target[j * target_step + i] = source[i * source_step + j]. */
INLINE void transpose_8x8(const float *source, int64_t source_step, float *target, int64_t target_step) {
  __m256 row[8], pair[8];
  for (int i = 0; i < 8; i++) row[i] = _mm256_loadu_ps(source + i * source_step);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    row[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    row[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    row[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    row[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(target + i * target_step, _mm256_permute2f128_ps(row[i], row[i + 4], 0x20));
    _mm256_storeu_ps(target + (i + 4) * target_step, _mm256_permute2f128_ps(row[i], row[i + 4], 0x31));
  }
}

/* A left factor is read number by number, so it may be a matrix or its transpose; a right factor is read 16
   neighbouring columns at a time. */
typedef struct {
  const float *data;
  int64_t row, inner; /* steps from one row to the next, and along what is summed over */
} Left;

typedef struct {
  const float *data;
  int64_t inner, columns; /* steps along what is summed over, and from 16 columns to the next 16 */
} Right;

/* Six rows of 16 columns: twelve registers of sums, as many as keep both FMA units busy. */
INLINE void multiply_6x16(Left a, Right b, int64_t inner, float *c, int64_t c_row, int add) {
  __m256 sum[6][2];
#pragma GCC unroll 6
  for (int i = 0; i < 6; i++) {
    sum[i][0] = add ? _mm256_loadu_ps(c + i * c_row) : _mm256_setzero_ps();
    sum[i][1] = add ? _mm256_loadu_ps(c + i * c_row + 8) : _mm256_setzero_ps();
  }
  for (int64_t k = 0; k < inner; k++) {
    const __m256 low = _mm256_loadu_ps(b.data), high = _mm256_loadu_ps(b.data + 8);
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
      const __m256 factor = _mm256_broadcast_ss(a.data + i * a.row);
      sum[i][0] = _mm256_fmadd_ps(factor, low, sum[i][0]);
      sum[i][1] = _mm256_fmadd_ps(factor, high, sum[i][1]);
    }
    a.data += a.inner;
    b.data += b.inner;
  }
#pragma GCC unroll 6
  for (int i = 0; i < 6; i++) {
    _mm256_storeu_ps(c + i * c_row, sum[i][0]);
    _mm256_storeu_ps(c + i * c_row + 8, sum[i][1]);
  }
}

/* c = a·b, or c += a·b: `rows` a multiple of 6, `columns` of 16. */
INLINE void multiply(Left a, Right b, int64_t rows, int64_t columns, int64_t inner, float *c, int64_t c_row,
                     int add) {
  for (int64_t j = 0; j < columns; j += 16)
    for (int64_t i = 0; i < rows; i += 6) {
      const Left six = {a.data + i * a.row, a.row, a.inner};
      const Right sixteen = {b.data + j / 16 * b.columns, b.inner, b.columns};
      multiply_6x16(six, sixteen, inner, c + i * c_row + j, c_row, add);
    }
}

#endif
