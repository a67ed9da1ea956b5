/* RMSNorm (arXiv 1910.07467) and SwiGLU (arXiv 2002.05202) of fp32 rows, forward and backward, each in one
   pass. Widths are multiples of 8. */
#include <math.h>
#include <string.h>

#include "simd.h"

#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps

/* y = w·x·r with r = (mean(x²) + eps)^(-1/2), which is kept. */
void nemo_pi_rms_norm(const float *x, const float *weight, float eps, float *y, float *inverse, int64_t rows,
                      int64_t width, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (int64_t n = 0; n < rows; n++) {
    const float *row = x + n * width;
    __m256 squares = _mm256_setzero_ps();
    for (int64_t h = 0; h < width; h += 8) squares = _mm256_fmadd_ps(LOAD(row + h), LOAD(row + h), squares);
    inverse[n] = 1.0f / sqrtf(sum_8(squares) / (float)width + eps);
    const __m256 r = _mm256_set1_ps(inverse[n]);
    for (int64_t h = 0; h < width; h += 8)
      STORE(y + n * width + h, _mm256_mul_ps(_mm256_mul_ps(LOAD(row + h), r), LOAD(weight + h)));
  }
}

/* dx = r·w·g - x·(Σ w·g·x)·r³/width; dw = Σ over rows of g·x·r, one sum for each of `parts` stretches of rows.

   Parts are summed apart so that the result depends on their number alone, not on who is faster. */
void nemo_pi_rms_norm_backward(const float *x, const float *weight, const float *inverse, const float *grad,
                               float *grad_x, float *grad_weight, int64_t rows, int64_t width, int64_t parts,
                               int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (int64_t part = 0; part < parts; part++) {
    float *sums = grad_weight + part * width;
    memset(sums, 0, width * sizeof(float));
    for (int64_t n = rows * part / parts; n < rows * (part + 1) / parts; n++) {
      const float *row = x + n * width, *g = grad + n * width;
      const __m256 r = _mm256_set1_ps(inverse[n]);
      __m256 dot = _mm256_setzero_ps();
      for (int64_t h = 0; h < width; h += 8) {
        const __m256 product = _mm256_mul_ps(LOAD(row + h), LOAD(g + h));
        dot = _mm256_fmadd_ps(product, LOAD(weight + h), dot);
        STORE(sums + h, _mm256_fmadd_ps(product, r, LOAD(sums + h)));
      }
      const float factor = sum_8(dot) * inverse[n] * inverse[n] * inverse[n] / (float)width;
      const __m256 towards = _mm256_set1_ps(factor);
      for (int64_t h = 0; h < width; h += 8) {
        const __m256 direct = _mm256_mul_ps(_mm256_mul_ps(LOAD(g + h), LOAD(weight + h)), r);
        STORE(grad_x + n * width + h, _mm256_fnmadd_ps(LOAD(row + h), towards, direct));
      }
    }
  }
}

/* 1 / (1 + exp(-x)), by the exponential of -|x|, which cannot overflow. */
INLINE __m256 sigmoid_8(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
  const __m256 e = exp2_8(_mm256_mul_ps(_mm256_or_ps(x, sign), _mm256_set1_ps(LOG2_E)));
  return _mm256_div_ps(_mm256_blendv_ps(one, e, x), _mm256_add_ps(one, e));
}

/* silu(gate)·up of rows that hold gate and up side by side. */
void nemo_pi_swiglu(const float *both, float *product, int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (int64_t n = 0; n < rows; n++) {
    const float *gate = both + 2 * n * width, *up = gate + width;
    for (int64_t h = 0; h < width; h += 8) {
      const __m256 x = LOAD(gate + h);
      STORE(product + n * width + h, _mm256_mul_ps(_mm256_mul_ps(x, sigmoid_8(x)), LOAD(up + h)));
    }
  }
}

/* silu'(x) = σ + x·σ·(1 - σ). The gradient may be written over `both`: numbers are read before their place
   is written. */
void nemo_pi_swiglu_backward(const float *both, const float *grad, float *grad_both, int64_t rows, int64_t width,
                             int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (int64_t n = 0; n < rows; n++) {
    const float *gate = both + 2 * n * width, *g = grad + n * width;
    float *grad_gate = grad_both + 2 * n * width;
    for (int64_t h = 0; h < width; h += 8) {
      const __m256 x = LOAD(gate + h), up = LOAD(gate + width + h), upstream = LOAD(g + h);
      const __m256 s = sigmoid_8(x), silu = _mm256_mul_ps(x, s);
      const __m256 slope = _mm256_fmadd_ps(silu, _mm256_sub_ps(_mm256_set1_ps(1.0f), s), s);
      STORE(grad_gate + width + h, _mm256_mul_ps(upstream, silu));
      STORE(grad_gate + h, _mm256_mul_ps(_mm256_mul_ps(upstream, up), slope));
    }
  }
}
