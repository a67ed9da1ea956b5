/* Rotation of query and key heads wherever they lie, in one pass: what kernels/rotation.py describes.

   Computes in fp32 and rounds once. A token's heads share one row of cosines and sines. */
#include <string.h>

#include "simd.h"

typedef struct {
  void *data;
  int64_t first, second, group, head; /* steps in elements; channels are neighbours */
} Heads;

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
  Heads source[3], target[3]; /* query, key, value; a value may be absent */
  int64_t groups[3], in_group[3];
  int64_t first, second, width, pairs;
  const float *cos, *sin; /* [first, second, pairs], neighbouring pairs */
  int64_t table_first, table_second;
  int64_t interleaved, inverse, dtype, threads;
} Job;

static const int64_t BYTES[] = {4, 2, 2};

INLINE __m256 load_8(const void *x, int64_t at, int dtype) {
  if (dtype == FLOAT32) return _mm256_loadu_ps((const float *)x + at);
  const __m128i bits = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + at));
  if (dtype == FLOAT16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/* fp32 to bf16, to the nearest, ties to even; what is no number stays none. */
INLINE __m128i to_bfloat16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
  __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i no_number = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), no_number);
  rounded = _mm256_srli_epi32(rounded, 16);
  const __m256i packed = _mm256_packus_epi32(rounded, rounded);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

INLINE void store_8(void *x, int64_t at, __m256 value, int dtype) {
  if (dtype == FLOAT32) {
    _mm256_storeu_ps((float *)x + at, value);
    return;
  }
  const __m128i bits = dtype == FLOAT16 ? _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT) : to_bfloat16(value);
  _mm_storeu_si128((__m128i *)((uint16_t *)x + at), bits);
}

/* Up to seven elements, with zeros for the rest; and back. */
INLINE __m256 load_few(const void *x, int64_t at, int64_t count, int dtype) {
  float padded[8] = {0};
  memcpy(padded, (const char *)x + at * BYTES[dtype], count * BYTES[dtype]);
  return load_8(padded, 0, dtype);
}

INLINE void store_few(void *x, int64_t at, int64_t count, __m256 value, int dtype) {
  float padded[8];
  store_8(padded, 0, value, dtype);
  memcpy((char *)x + at * BYTES[dtype], padded, count * BYTES[dtype]);
}

/* Pairs (j, j + pairs): (a, b) becomes (a·cos − b·sin, b·cos + a·sin). */
INLINE void turn_halves(const void *x, void *y, const float *cos, const float *sin, int64_t pairs, float sign,
                        int dtype) {
  const __m256 signs = _mm256_set1_ps(sign);
  int64_t j = 0;
  for (; j + 8 <= pairs; j += 8) {
    const __m256 c = _mm256_loadu_ps(cos + j), s = _mm256_mul_ps(_mm256_loadu_ps(sin + j), signs);
    const __m256 a = load_8(x, j, dtype), b = load_8(x, j + pairs, dtype);
    store_8(y, j, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)), dtype);
    store_8(y, j + pairs, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)), dtype);
  }
  if (j == pairs) return;
  const int64_t rest = pairs - j;
  const __m256 c = load_few(cos, j, rest, FLOAT32), s = _mm256_mul_ps(load_few(sin, j, rest, FLOAT32), signs);
  const __m256 a = load_few(x, j, rest, dtype), b = load_few(x, j + pairs, rest, dtype);
  store_few(y, j, rest, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)), dtype);
  store_few(y, j + pairs, rest, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)), dtype);
}

/* Neighbours (2j, 2j + 1), four pairs at a time. */
INLINE __m256 turn_neighbours_8(__m256 x, __m128 cos, __m128 sin, __m256 signs) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  const __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(cos), twice);
  const __m256 s = _mm256_mul_ps(_mm256_permutevar8x32_ps(_mm256_castps128_ps256(sin), twice), signs);
  return _mm256_fmaddsub_ps(x, c, _mm256_mul_ps(_mm256_permute_ps(x, 0xb1), s));
}

INLINE void turn_neighbours(const void *x, void *y, const float *cos, const float *sin, int64_t pairs, float sign,
                            int dtype) {
  const __m256 signs = _mm256_set1_ps(sign);
  int64_t j = 0;
  for (; j + 4 <= pairs; j += 4) {
    const __m256 turned =
        turn_neighbours_8(load_8(x, 2 * j, dtype), _mm_loadu_ps(cos + j), _mm_loadu_ps(sin + j), signs);
    store_8(y, 2 * j, turned, dtype);
  }
  if (j == pairs) return;
  const int64_t rest = pairs - j;
  const __m128 c = _mm256_castps256_ps128(load_few(cos, j, rest, FLOAT32));
  const __m128 s = _mm256_castps256_ps128(load_few(sin, j, rest, FLOAT32));
  store_few(y, 2 * j, 2 * rest, turn_neighbours_8(load_few(x, 2 * j, 2 * rest, dtype), c, s, signs), dtype);
}

INLINE void turn_head(const Job *job, const void *x, void *y, const float *cos, const float *sin, int dtype) {
  const float sign = job->inverse ? -1.0f : 1.0f;
  const int64_t bytes = BYTES[dtype], turned = 2 * job->pairs;
  if (job->interleaved) turn_neighbours(x, y, cos, sin, job->pairs, sign, dtype);
  else turn_halves(x, y, cos, sin, job->pairs, sign, dtype);
  if (x != y) memcpy((char *)y + turned * bytes, (const char *)x + turned * bytes, (job->width - turned) * bytes);
}

INLINE char *head_of(const Heads *x, int64_t i, int64_t j, int64_t group, int64_t head, int64_t bytes) {
  return (char *)x->data + bytes * (i * x->first + j * x->second + group * x->group + head * x->head);
}

INLINE void turn_token(const Job *job, int64_t i, int64_t j, int dtype) {
  const int64_t table = i * job->table_first + j * job->table_second, bytes = BYTES[dtype];
  for (int part = 0; part < 3; part++) {
    const Heads *source = &job->source[part], *target = &job->target[part];
    if (part == 2 && (!source->data || source->data == target->data)) continue;
    for (int64_t group = 0; group < job->groups[part]; group++)
      for (int64_t head = 0; head < job->in_group[part]; head++) {
        const char *x = head_of(source, i, j, group, head, bytes);
        char *y = head_of(target, i, j, group, head, bytes);
        if (part < 2) turn_head(job, x, y, job->cos + table, job->sin + table, dtype);
        else memcpy(y, x, job->width * bytes);
      }
  }
}

void nemo_pi_rotate(const Job *job) {
  const int64_t tokens = job->first * job->second;
#pragma omp parallel for schedule(static) num_threads((int)job->threads) if (job->threads > 1)
  for (int64_t n = 0; n < tokens; n++) {
    const int64_t i = n / job->second, j = n % job->second;
    /* The dtype is a constant in each branch, so that its conversions are compiled in. */
    if (job->dtype == FLOAT32) turn_token(job, i, j, FLOAT32);
    else if (job->dtype == BFLOAT16) turn_token(job, i, j, BFLOAT16);
    else turn_token(job, i, j, FLOAT16);
  }
}
