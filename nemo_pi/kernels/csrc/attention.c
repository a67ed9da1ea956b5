/* Attention of fp32 heads, forward and backward, without a matrix of scores (arXiv 2205.14135).

   Tiles of 48 queries meet blocks of 48 keys: whole blocks that a causal mask hides are never computed, where
   PyTorch's kernel for CPUs takes keys by 512. A unit of work is all query heads of one key head of one row,
   or, where there are fewer of those than threads, every `chunks`-th tile of them; which thread takes it does
   not change a bit of the result.

   Scores are kept in units of log 2: exp(s) = 2^(s·log2 e), with the factor folded into the queries. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"
#include "wide.h"

#define TILE 48 /* a multiple of 24 and of 16: the rows and columns of products */
#define BAND 4  /* tiles that take turns on a block of keys */
#define LN_2 0.6931471805599453f
#define HIDDEN -1e30f

int nemo_pi_wide = 0;

typedef struct {
  int64_t batch, heads, groups, queries, keys, width;
  int64_t visible; /* keys that the first query sees, at least one */
  int64_t step;    /* how many more every further query sees: 1 if causal, else 0 */
  int64_t chunks, threads;
  float scale;
} Shape;

typedef struct {
  float *data;
  int64_t chunk, batch, head, token; /* steps in floats; channels are neighbours */
} View;

typedef struct {
  const Shape *shape;
  View q, k, v, out;
  float *lse; /* [batch, heads, queries], natural logarithm */
  View grad, dq, dk, dv;
} Job;

/* Queries that are worked on together, and what is known of each. */
typedef struct {
  float *q, *grad, *sum;        /* [TILE, width]: queries, upstream gradients, outputs or gradients so far */
  float max[TILE], total[TILE]; /* of a query's scores so far; backward: its log-sum-exp, Σ grad·out */
  int64_t first, rows, seen;    /* first query, number of them, keys that the last one sees */
} Tile;

/* What one thread works in. */
typedef struct {
  float *block;                                 /* all of it */
  float *keys_t, *values, *values_t, *key_rows; /* one key head, packed; `keys` rounded up to tiles */
  float *dk, *dv;                               /* its gradients, as long */
  float *score, *score_grad;                    /* [TILE, TILE] */
  Tile tile[BAND];
} Scratch;

static int64_t round_up(int64_t n) { return (n + TILE - 1) / TILE * TILE; }

static int open_scratch(Scratch *s, const Shape *shape, int backward) {
  const int64_t all = round_up(shape->keys) * shape->width, tile = TILE * shape->width, square = TILE * TILE;
  const int64_t floats = (backward ? 5 : 2) * all + 3 * BAND * tile + 2 * square;
  if (posix_memalign((void **)&s->block, 64, floats * sizeof(float))) return 0;
  float *next = s->block;
#define TAKE(n) (next += (n), next - (n))
  s->keys_t = TAKE(all);
  if (backward) {
    s->values_t = TAKE(all), s->key_rows = TAKE(all), s->dk = TAKE(all), s->dv = TAKE(all);
  } else {
    s->values = TAKE(all);
  }
  for (int i = 0; i < BAND; i++)
    s->tile[i].q = TAKE(tile), s->tile[i].grad = TAKE(tile), s->tile[i].sum = TAKE(tile);
  s->score = TAKE(square), s->score_grad = TAKE(square);
#undef TAKE
  return 1;
}

/* `rows` of `width` channels times `factor`, side by side, then zeros up to whole tiles. */
static void pack(const float *x, int64_t step, int64_t rows, int64_t width, float factor, float *packed) {
  const __m256 times = _mm256_set1_ps(factor);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < width; d += 8)
      _mm256_storeu_ps(packed + i * width + d, _mm256_mul_ps(_mm256_loadu_ps(x + i * step + d), times));
  memset(packed + rows * width, 0, (round_up(rows) - rows) * width * sizeof(float));
}

/* Panels of 16 rows, transposed: packed[i / 16][d][i % 16] = x[i][d], zeros up to whole tiles. */
static void pack_transposed(const float *x, int64_t step, int64_t rows, int64_t width, float *packed) {
  for (int64_t i = 0; i < round_up(rows); i += 8) {
    float *target = packed + i / 16 * 16 * width + i % 16;
    if (i + 8 <= rows) {
      for (int64_t d = 0; d < width; d += 8) transpose_8x8(x + i * step + d, step, target + d * 16, 16);
    } else {
      for (int64_t j = 0; j < 8; j++)
        for (int64_t d = 0; d < width; d++) target[d * 16 + j] = i + j < rows ? x[(i + j) * step + d] : 0.0f;
    }
  }
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Keys that query number `query` sees. */
INLINE int64_t seen(const Shape *s, int64_t query) { return least(s->visible + s->step * query, s->keys); }

INLINE float *row_of(View x, int64_t batch, int64_t head, int64_t token) {
  return x.data + batch * x.batch + head * x.head + token * x.token;
}

INLINE void scale_row(float *row, int64_t width, float factor) {
  const __m256 times = _mm256_set1_ps(factor);
  for (int64_t d = 0; d < width; d += 8) _mm256_storeu_ps(row + d, _mm256_mul_ps(_mm256_loadu_ps(row + d), times));
}

/* Turns a row of scores, of which `count` are visible, into probabilities below the running maximum. */
INLINE void soften_row(Tile *tile, float *score, int i, int count, int64_t width) {
  __m256 x[TILE / 8], most = _mm256_set1_ps(tile->max[i]), total = _mm256_setzero_ps();
#pragma GCC unroll 6
  for (int j = 0; j < TILE / 8; j++) {
    x[j] = _mm256_loadu_ps(score + 8 * j);
    if (count < TILE) x[j] = _mm256_blendv_ps(_mm256_set1_ps(HIDDEN), x[j], lanes_below(8 * j, count));
    most = _mm256_max_ps(most, x[j]);
  }
  const float highest = max_8(most), before = tile->max[i];
  most = _mm256_set1_ps(highest);
#pragma GCC unroll 6
  for (int j = 0; j < TILE / 8; j++) {
    const __m256 p = exp2_8(_mm256_sub_ps(x[j], most));
    total = _mm256_add_ps(total, p);
    _mm256_storeu_ps(score + 8 * j, p);
  }
  if (highest > before) {
    const float shrink = exp2f(before - highest);
    tile->max[i] = highest;
    tile->total[i] *= shrink;
    scale_row(tile->sum + i * width, width, shrink);
  }
  tile->total[i] += sum_8(total);
}

/* Keys of the block that begins at `key` that row `i` of a tile sees. */
INLINE int count_seen(const Shape *shape, const Tile *tile, int64_t i, int64_t key) {
  const int64_t count = seen(shape, tile->first + i) - key;
  return count < 0 ? 0 : (int)least(count, TILE);
}

static void forward_block(const Shape *shape, Scratch *s, Tile *tile, int64_t key) {
  const int64_t width = shape->width;
  const Left q = {tile->q, width, 1}, prob = {s->score, TILE, 1};
  const Right keys = {s->keys_t + key * width, 16, 16 * width}, values = {s->values + key * width, width, 16};
  multiply_fastest(q, keys, TILE, TILE, width, s->score, TILE, 0);
  for (int i = 0; i < TILE; i++)
    soften_row(tile, s->score + i * TILE, i, count_seen(shape, tile, i, key), width);
  multiply_fastest(prob, values, TILE, width, least(TILE, tile->seen - key), tile->sum, width, 1);
}

static void close_forward(const Job *job, Tile *tile, int64_t batch, int64_t head) {
  const int64_t width = job->shape->width;
  float *lse = job->lse + (batch * job->shape->heads + head) * job->shape->queries + tile->first;
  for (int64_t i = 0; i < tile->rows; i++) {
    scale_row(tile->sum + i * width, width, 1.0f / tile->total[i]);
    memcpy(row_of(job->out, batch, head, tile->first + i), tile->sum + i * width, width * sizeof(float));
    lse[i] = (tile->max[i] + log2f(tile->total[i])) * LN_2;
  }
}

/* Probabilities of a row, `count` of them visible, and the gradients of its scores in place of those of the
   probabilities. */
INLINE void gradients_of_row(const Tile *tile, float *score, float *grad, int i, int count) {
  const __m256 lse = _mm256_set1_ps(tile->max[i]), delta = _mm256_set1_ps(tile->total[i]);
#pragma GCC unroll 6
  for (int j = 0; j < TILE / 8; j++) {
    __m256 p = exp2_8(_mm256_sub_ps(_mm256_loadu_ps(score + 8 * j), lse));
    if (count < TILE) p = _mm256_and_ps(p, lanes_below(8 * j, count));
    _mm256_storeu_ps(score + 8 * j, p);
    _mm256_storeu_ps(grad + 8 * j, _mm256_mul_ps(p, _mm256_sub_ps(_mm256_loadu_ps(grad + 8 * j), delta)));
  }
}

static void backward_block(const Shape *shape, Scratch *s, Tile *tile, int64_t key) {
  const int64_t width = shape->width, at = key * width;
  const Left q = {tile->q, width, 1}, grad = {tile->grad, width, 1};
  const Left prob_t = {s->score, 1, TILE}, score_grad_t = {s->score_grad, 1, TILE};
  const Left score_grad = {s->score_grad, TILE, 1};
  const Right keys = {s->keys_t + at, 16, 16 * width}, values = {s->values_t + at, 16, 16 * width};
  const Right q_rows = {tile->q, width, 16}, grad_rows = {tile->grad, width, 16};
  const Right key_rows = {s->key_rows + at, width, 16};
  multiply_fastest(q, keys, TILE, TILE, width, s->score, TILE, 0);
  multiply_fastest(grad, values, TILE, TILE, width, s->score_grad, TILE, 0);
  for (int i = 0; i < TILE; i++)
    gradients_of_row(tile, s->score + i * TILE, s->score_grad + i * TILE, i, count_seen(shape, tile, i, key));
  multiply_fastest(prob_t, grad_rows, TILE, width, tile->rows, s->dv + at, width, 1);
  multiply_fastest(score_grad_t, q_rows, TILE, width, tile->rows, s->dk + at, width, 1);
  multiply_fastest(score_grad, key_rows, TILE, width, least(TILE, tile->seen - key), tile->sum, width, 1);
}

/* Packs upstream gradients; finds log-sum-exp and Σ grad·out of every query. */
static void open_backward(const Job *job, Tile *tile, int64_t batch, int64_t head) {
  const int64_t width = job->shape->width;
  const float *lse = job->lse + (batch * job->shape->heads + head) * job->shape->queries + tile->first;
  pack(row_of(job->grad, batch, head, tile->first), job->grad.token, tile->rows, width, 1.0f, tile->grad);
  for (int64_t i = 0; i < tile->rows; i++) {
    __m256 delta = _mm256_setzero_ps();
    const float *out = row_of(job->out, batch, head, tile->first + i), *grad = tile->grad + i * width;
    for (int64_t d = 0; d < width; d += 8)
      delta = _mm256_fmadd_ps(_mm256_loadu_ps(out + d), _mm256_loadu_ps(grad + d), delta);
    tile->max[i] = lse[i] * LOG2_E;
    tile->total[i] = sum_8(delta);
  }
}

static void close_backward(const Job *job, Tile *tile, int64_t batch, int64_t head) {
  const int64_t width = job->shape->width;
  for (int64_t i = 0; i < tile->rows; i++) {
    scale_row(tile->sum + i * width, width, job->shape->scale);
    memcpy(row_of(job->dq, batch, head, tile->first + i), tile->sum + i * width, width * sizeof(float));
  }
}

/* The next queries of a head; none if `first` is behind the last. */
static void open_tile(const Job *job, Tile *tile, int64_t batch, int64_t head, int64_t first) {
  const Shape *shape = job->shape;
  const int64_t width = shape->width;
  tile->first = first, tile->rows = first < shape->queries ? least(TILE, shape->queries - first) : 0;
  tile->seen = tile->rows ? seen(shape, first + tile->rows - 1) : 0;
  if (!tile->rows) return;
  pack(row_of(job->q, batch, head, first), job->q.token, tile->rows, width, shape->scale * LOG2_E, tile->q);
  memset(tile->sum, 0, TILE * width * sizeof(float));
  for (int i = 0; i < TILE; i++) tile->max[i] = HIDDEN, tile->total[i] = 0.0f;
}

/* Several tiles of queries meet each block of keys while it is in the cache. */
static void band(const Job *job, Scratch *s, int64_t batch, int64_t head, int64_t first, int backward) {
  int64_t last = 0;
  for (int i = 0; i < BAND; i++) {
    Tile *tile = &s->tile[i];
    open_tile(job, tile, batch, head, first + i * TILE);
    if (backward) open_backward(job, tile, batch, head);
    if (tile->seen > last) last = tile->seen;
  }
  for (int64_t key = 0; key < last; key += TILE)
    for (int i = 0; i < BAND; i++) {
      if (key >= s->tile[i].seen) continue;
      if (backward) backward_block(job->shape, s, &s->tile[i], key);
      else forward_block(job->shape, s, &s->tile[i], key);
    }
  for (int i = 0; i < BAND; i++)
    if (backward) close_backward(job, &s->tile[i], batch, head);
    else close_forward(job, &s->tile[i], batch, head);
}

static void unit(const Job *job, Scratch *s, int64_t number, int backward) {
  const Shape *shape = job->shape;
  const int64_t chunk = number % shape->chunks, group = number / shape->chunks % shape->groups;
  const int64_t batch = number / shape->chunks / shape->groups, shared = shape->heads / shape->groups;
  const int64_t all = round_up(shape->keys) * shape->width * sizeof(float);
  const float *k = row_of(job->k, batch, group, 0), *v = row_of(job->v, batch, group, 0);
  pack_transposed(k, job->k.token, shape->keys, shape->width, s->keys_t);
  if (backward) {
    pack_transposed(v, job->v.token, shape->keys, shape->width, s->values_t);
    pack(k, job->k.token, shape->keys, shape->width, 1.0f, s->key_rows);
    memset(s->dk, 0, all), memset(s->dv, 0, all);
  } else {
    pack(v, job->v.token, shape->keys, shape->width, 1.0f, s->values);
  }
  for (int64_t head = group * shared; head < (group + 1) * shared; head++)
    for (int64_t first = chunk * BAND * TILE; first < shape->queries; first += shape->chunks * BAND * TILE)
      band(job, s, batch, head, first, backward);
  for (int64_t i = 0; backward && i < shape->keys; i++) {
    /* The queries that dk was summed from carry log2 e as well as the scale. */
    scale_row(s->dk + i * shape->width, shape->width, LN_2);
    memcpy(row_of(job->dk, batch, group, i) + chunk * job->dk.chunk, s->dk + i * shape->width,
           shape->width * sizeof(float));
    memcpy(row_of(job->dv, batch, group, i) + chunk * job->dv.chunk, s->dv + i * shape->width,
           shape->width * sizeof(float));
  }
}

/* Fills out and lse or, backward, dq, dk and dv (those of each chunk by itself). 0, or -1 without memory. */
int nemo_pi_attend(const Job *job, int backward) {
  const Shape *shape = job->shape;
  const int64_t units = shape->batch * shape->groups * shape->chunks;
  int failed = 0;
#pragma omp parallel num_threads((int)shape->threads)
  {
    Scratch s = {0};
    const int ready = open_scratch(&s, shape, backward);
    if (!ready) {
#pragma omp atomic write
      failed = -1;
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t number = 0; number < units; number++)
      if (ready) unit(job, &s, number, backward);
    if (ready) free(s.block);
  }
  return failed;
}
