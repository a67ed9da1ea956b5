/* The softmax of fp32 rows in place, with what the loss of a label needs. Widths are multiples of 8. */
#include <math.h>

#include "simd.h"

INLINE float row_maximum(const float *row, int64_t width) {
  __m256 highest = _mm256_loadu_ps(row);
  for (int64_t v = 8; v < width; v += 8) highest = _mm256_max_ps(highest, _mm256_loadu_ps(row + v));
  return max_8(highest);
}

/* Eight numbers become exp(number - highest), which are added to `sum`. */
INLINE __m256 exponentials_8(float *row, __m256 highest, __m256 sum) {
  const __m256 below = _mm256_sub_ps(_mm256_loadu_ps(row), highest);
  const __m256 power = exp2_8(_mm256_mul_ps(below, _mm256_set1_ps(LOG2_E)));
  _mm256_storeu_ps(row, power);
  return _mm256_add_ps(sum, power);
}

/* All numbers of a row become exponentials; their sum, in four parts that do not wait for each other. */
INLINE float exponentials(float *row, int64_t width, float maximum) {
  const __m256 highest = _mm256_set1_ps(maximum);
  __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
  int64_t v = 0;
  for (; v + 32 <= width; v += 32) {
    a = exponentials_8(row + v, highest, a);
    b = exponentials_8(row + v + 8, highest, b);
    c = exponentials_8(row + v + 16, highest, c);
    d = exponentials_8(row + v + 24, highest, d);
  }
  for (; v < width; v += 8) a = exponentials_8(row + v, highest, a);
  return sum_8(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
}

/* Rows of logits, `step` apart, become probabilities. label_logprob[n] is the log-probability of row n's
   number label[n]; logsumexp[n] is that of its logits. */
void nemo_pi_softmax(float *logits, int64_t step, const int64_t *label, float *label_logprob, float *logsumexp,
                     int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)
  for (int64_t n = 0; n < rows; n++) {
    float *row = logits + n * step;
    const float highest = row_maximum(row, width), below = row[label[n]] - highest;
    const float sum = exponentials(row, width, highest), log_sum = logf(sum);
    label_logprob[n] = below - log_sum;
    logsumexp[n] = highest + log_sum;
    const __m256 inverse = _mm256_set1_ps(1.0f / sum);
    for (int64_t v = 0; v < width; v += 8)
      _mm256_storeu_ps(row + v, _mm256_mul_ps(_mm256_loadu_ps(row + v), inverse));
  }
}
