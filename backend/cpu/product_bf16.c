/* Products of bfloat16 over threads. Invariant: an element is the sum, block by block along k, of each
 * block's own sum, which the instruction set orders; then it is scaled, D is added, and it is rounded once. Bits depend
 * on k and the instruction set.
 *
 * Blocks and tasks are those of product.c. What is bfloat16 at the end stands in float32 until its last block: in the
 * workspace, whole tiles. */
#include "backend/cpu/product_bf16.h"

#include <string.h>

enum {
  M_BLOCK = 128,  /* rows of a task at most */
  K_BLOCK = 1024, /* at most */
  N_BLOCK = 2048,
  N_LEAST = 256,           /* columns of a block at least, where sums are kept: */
  SUMS_BYTES = 8 << 20,    /* as much of them, else */
  N_TASK = 256,            /* columns of a task at least */
  TASKS = 24,              /* tasks of a block, for several threads, where it is large enough */
  LEAST_TILES = 4,         /* one below another in a task, at least */
  PACK_TASK = 128,         /* columns that one task packs; a multiple of every tile's */
  WIDEST = MOST_BF16_WIDTH /* of tiles, both ways */
};

typedef struct {
  const ProductBf16 *call;
  const Product *p;
  const LoopsBf16 *loops;
  const Tensor *a, *b, *c;
  int64_t a_at, b_at, c_at;    /* the first element of the product's matrices */
  char *packed, *packed_a;     /* B's columns; A's rows, where several tasks need them */
  float *sums;                 /* [m, n of the block] as whole tiles; NULL: none are needed */
  int64_t n_block, j, n;       /* the block along n */
  int64_t l, k;                /* and along k */
  int64_t m_task, n_task;      /* rows and columns of a task */
  int64_t d_row, d_column;     /* elements between D's; 0 where it is broadcast */
  Reading soon[MOST_READINGS]; /* what is read behind this block */
  int n_soon;
} Job;

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

bool product_is_bf16(const Tensor *in) {
  return in[0].dtype == BF16 || in[1].dtype == BF16;
}

static bool keeps_sums(const Product *p, DType out) {
  return out == BF16 && p->k > K_BLOCK;
}

/* Columns of a block. */
static int64_t block_of(const Product *p, bool sums) {
  int64_t most = N_BLOCK, fit = SUMS_BYTES / (int64_t)sizeof(float) / (round_up(p->m, WIDEST) + 1);
  if (sums && fit < most)
    most = fit < N_LEAST ? N_LEAST : fit - fit % PACK_TASK;
  return least(p->n, most);
}

/* Along k: blocks of one size, the last one apart. */
static int64_t k_block(const Product *p) {
  return p->k ? round_up(divide_up(p->k, divide_up(p->k, K_BLOCK)), MOST_BF16_DEPTH) : MOST_BF16_DEPTH;
}

static size_t packed_bytes(const Product *p, int64_t n) {
  return (size_t)(round_up(n, WIDEST) * k_block(p)) * sizeof(float);
}

/* The last rows' tiles are whole, too: no tile is higher than WIDEST, and not all divide it. */
static size_t sums_bytes(const Product *p, int64_t n) {
  return (size_t)((p->m + WIDEST) * round_up(n, WIDEST)) * sizeof(float);
}

/* Of A, which is packed once where columns are shared by tasks: it has few rows then. */
static size_t rows_bytes(const Product *p) {
  bool few = p->m <= TASKS / 2 * M_BLOCK && p->n > N_TASK;
  return few ? (size_t)((round_up(p->m, M_BLOCK) + WIDEST) * k_block(p)) * sizeof(float) : 0;
}

/* One of many small products lies in a thread's scratch: B's block, A's, and sums. */
static bool fits_scratch(const Product *p, bool sums) {
  int64_t rows = (M_BLOCK + WIDEST) * k_block(p) * (int64_t)sizeof(float);
  return packed_bytes(p, p->n) + (size_t)rows + (sums ? sums_bytes(p, p->n) : 0) <= POOL_SCRATCH_BYTES;
}

size_t product_bf16_workspace(const Product *p, DType out) {
  bool sums = keeps_sums(p, out);
  int64_t n = block_of(p, sums);
  return packed_bytes(p, n) + (sums ? sums_bytes(p, n) : 0) + rows_bytes(p);
}

static const void *element(const Tensor *t, int64_t i) {
  return (const char *)t->data + (size_t)i * dtype_bytes(t->dtype);
}

/* Bytes of a packed strip's column, or row. */
static int64_t line_bytes(const Job *job) {
  return round_up(job->k, job->loops->depth) * job->loops->bytes;
}

/* Element (row, column + i) of D times beta, for i = 0 … n - 1, is added to the sums. */
static void add_d(const Job *job, int64_t row, int64_t column, int64_t n, float *sum) {
  const Tensor *d = job->call->d;
  float beta = job->call->beta, wide[WIDEST];
  int64_t at = row * job->d_row + column * job->d_column;
  if (d->dtype == BF16)
    job->loops->widen(element(d, at), wide, job->d_column ? n : 1);
  const float *from = d->dtype == BF16 ? wide : (const float *)d->data + at;
  for (int64_t i = 0; i < n; i++)
    sum[i] += beta * from[i * job->d_column];
}

/* n elements from number `at` on, rounded where the tensor is bfloat16. */
static void store(const Job *job, const float *from, const Tensor *to, int64_t at, int64_t n) {
  if (to->dtype == BF16)
    job->loops->narrow(from, (uint16_t *)to->data + at, n);
  else
    memcpy((float *)to->data + at, from, (size_t)n * sizeof *from);
}

WIDE_LOOPS static void add(const float *x, const float *more, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] + more[i];
}

/* What becomes of a tile's sums: one call, for functions take their time to begin with. at: its first element's number.
 */
static void put_behind(const Job *job, int64_t at, int64_t height, int64_t width, const float *tile) {
  const Behind *behind = job->call->behind;
  int64_t columns = job->loops->columns, row = job->p->n;
  float of[WIDEST * WIDEST], y[WIDEST * WIDEST];
  if (behind->of && width < columns)
    memset(of, 0, (size_t)(height * columns) * sizeof *of);
  for (int64_t r = 0; r < height; r++) {
    if (behind->sums)
      store(job, tile + r * columns, behind->sums, at + r * row, width);
    if (behind->of && behind->of->dtype == BF16)
      job->loops->widen(element(behind->of, at + r * row), of + r * columns, width);
    else if (behind->of)
      memcpy(of + r * columns, element(behind->of, at + r * row), (size_t)width * sizeof *of);
  }
  if (behind->map)
    behind->map(tile, y, height * columns);
  else if (behind->slope)
    behind->slope(tile, of, y, height * columns);
  else
    add(tile, of, y, height * columns);
  for (int64_t r = 0; r < height; r++)
    store(job, y + r * columns, job->c, at + r * row, width);
}

/* A tile of the last block is done: what stood in `before` (NULL: nothing), scale, D, what is behind, rounding. */
static void finish_tile(const Job *job, int64_t row, int64_t column, int64_t height, int64_t width, float *tile,
                        const float *before, int64_t before_row) {
  const ProductBf16 *call = job->call;
  int64_t columns = job->loops->columns, first = job->c_at + row * job->p->n + column;
  for (int64_t r = 0; r < height; r++) {
    float *sum = tile + r * columns;
    for (int64_t i = 0; before && i < width; i++)
      sum[i] = before[r * before_row + i] + sum[i];
    for (int64_t i = 0; call->alpha != 1 && i < width; i++)
      sum[i] *= call->alpha;
    if (call->d)
      add_d(job, row + r, column, width, sum);
    if (!call->behind)
      store(job, sum, job->c, first + r * job->p->n, width);
  }
  if (call->behind)
    put_behind(job, first, height, width, tile);
}

/* While a tile is summed, what it is added to and goes to comes near: rows lie too far apart for a processor to foresee
 * them. */
static void bring_near(const void *first, int64_t row_bytes, int64_t height, int64_t bytes) {
  for (int64_t r = 0; r < height; r++)
    for (int64_t at = 0; at < bytes; at += LINE_BYTES)
      __builtin_prefetch((const char *)first + r * row_bytes + at, 1);
}

/* What comes near while tile number `tile` of the block is summed. */
static const char *ahead_of(const Job *job, int64_t tile) {
  int64_t at = tile * divide_up(job->k, AHEAD_STEPS) * LINE_BYTES;
  for (int i = 0; i < job->n_soon; at -= job->soon[i++].bytes)
    if (at < job->soon[i].bytes)
      return job->soon[i].data + at;
  return NULL;
}

/* Packed rows times packed columns, from (row, column) of C on; `column` counts within the block. */
static void multiply(const Job *job, int64_t row, int64_t m, int64_t column, int64_t n, const char *a, const char *b) {
  const LoopsBf16 *loops = job->loops;
  _Alignas(64) float edge[WIDEST * WIDEST];
  int64_t rows = loops->rows, columns = loops->columns, line = line_bytes(job), wide = round_up(job->n, columns);
  bool first = job->l == 0, last = job->l + job->k == job->p->k, kept = job->sums;
  const Behind *behind = job->call->behind;
  const Tensor *beside = !behind ? NULL : behind->of ? behind->of : behind->sums;
  bool plain = job->c->dtype == F32 && !(last && (job->call->d || job->call->alpha != 1 || behind));
  int64_t tall = divide_up(m, rows), tile = row / rows * divide_up(job->n, columns) + column / columns * tall;
  for (int64_t j = 0; j < n; j += columns)
    for (int64_t i = 0; i < m; i += rows, tile++) {
      const char *ahead = ahead_of(job, tile);
      int64_t height = least(m - i, rows), width = least(n - j, columns), to = column + j;
      const char *left = a + i * line, *right = b + j * line;
      float *c = kept ? job->sums + (row + i) * wide + to
                      : (float *)job->c->data + job->c_at + (row + i) * job->p->n + job->j + to;
      bool whole = height == rows && width == columns, stays = kept && !last;
      int64_t size = (int64_t)dtype_bytes(job->c->dtype);
      if (kept)
        bring_near(c, wide * (int64_t)sizeof(float), height, width * (int64_t)sizeof(float));
      if (!stays)
        bring_near(element(job->c, job->c_at + (row + i) * job->p->n + job->j + to), job->p->n * size, height,
                   width * size);
      if (last && beside)
        bring_near(element(beside, (row + i) * job->p->n + job->j + to),
                   job->p->n * (int64_t)dtype_bytes(beside->dtype), height,
                   width * (int64_t)dtype_bytes(beside->dtype));
      if (stays || (plain && whole)) {
        loops->tile(job->k, left, right, c, kept ? wide : job->p->n, !first || (!kept && job->call->adds), ahead);
        continue;
      }
      loops->tile(job->k, left, right, edge, columns, false, ahead);
      if (last || !plain) {
        bool begun = !first || job->call->adds;
        finish_tile(job, row + i, job->j + to, height, width, edge, begun ? c : NULL, kept ? wide : job->p->n);
        continue;
      }
      for (int64_t r = 0; r < height; r++)
        for (int64_t s = 0; s < width; s++)
          c[r * job->p->n + s] = (first && !job->call->adds ? 0 : c[r * job->p->n + s]) + edge[r * columns + s];
    }
}

static void pack_columns(const Job *job, int64_t column, int64_t n, char *to) {
  const Layout *l = &job->p->b;
  job->loops->pack_b(job->b->dtype == F32, element(job->b, job->b_at + job->l * l->row + column * l->column), l->row,
                     l->column, n, job->k, to);
}

static void pack_rows(const Job *job, int64_t row, int64_t m, char *to) {
  const Layout *l = &job->p->a;
  job->loops->pack_a(job->a->dtype == F32, element(job->a, job->a_at + row * l->row + job->l * l->column), l->row,
                     l->column, m, job->k, to);
}

/* First B's columns, then A's rows. */
static Status pack_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Job *job = context;
  int64_t j = i * PACK_TASK, row = (i - divide_up(job->n, PACK_TASK)) * job->m_task;
  if (row >= 0) {
    pack_rows(job, row, least(job->p->m - row, job->m_task), job->packed_a + row * line_bytes(job));
    return OK;
  }
  pack_columns(job, job->j + j, least(job->n - j, PACK_TASK), job->packed + j * line_bytes(job));
  return OK;
}

static Status multiply_task(void *context, int64_t i, void *scratch) {
  const Job *job = context;
  int64_t across = divide_up(job->n, job->n_task);
  int64_t row = i / across * job->m_task, column = i % across * job->n_task;
  int64_t m = least(job->p->m - row, job->m_task), n = least(job->n - column, job->n_task);
  const char *rows = scratch;
  if (across > 1)
    rows = job->packed_a + row * line_bytes(job);
  else
    pack_rows(job, row, m, scratch);
  if (job->loops->begin)
    job->loops->begin();
  multiply(job, row, m, column, n, rows, job->packed + column * line_bytes(job));
  if (job->loops->end)
    job->loops->end();
  return OK;
}

/* One thread takes as many rows at once as stay near. For several, a task has fewer rows, so that A is packed where it
 * is multiplied; where these are few, the columns are shared, too. */
static void plan(Job *job, int threads) {
  int64_t rows = job->loops->rows, most = M_BLOCK - M_BLOCK % rows, wanted = threads > 1 ? TASKS : 1;
  int64_t m_task = round_up(divide_up(job->p->m, wanted), rows);
  job->m_task = m_task > most ? most : m_task < LEAST_TILES * rows ? LEAST_TILES * rows : m_task;
  int64_t tall = divide_up(job->p->m, job->m_task);
  int64_t across = least(wanted / tall, divide_up(job->n, N_TASK));
  job->n_task = across > 1 ? round_up(divide_up(job->n, across), job->loops->columns) : job->n;
}

/* What is read next: B's next block, where it lies in one piece, or what follows the product. */
static void look_ahead(Job *job, const Stream *stream) {
  const Layout *l = &job->p->b;
  int64_t size = (int64_t)dtype_bytes(job->b->dtype), left = job->p->k - job->l - job->k,
          right = job->p->n - job->j - job->n;
  job->n_soon = 0;
  if (left > 0 && l->column == 1 && job->n == l->row)
    job->soon[job->n_soon++] =
        (Reading){element(job->b, job->b_at + (job->l + job->k) * l->row), least(left, job->k) * l->row * size};
  else if (left == 0 && right > 0 && l->row == 1 && job->k == l->column)
    job->soon[job->n_soon++] =
        (Reading){element(job->b, job->b_at + (job->j + job->n) * l->column), least(right, job->n) * l->column * size};
  else if (left == 0 && right == 0)
    for (; job->n_soon < stream->n_soon; job->n_soon++)
      job->soon[job->n_soon] = stream->soon[job->n_soon];
}

static Status one_product(Job *job, Stream *stream) {
  const Product *p = job->p;
  Pool *pool = stream->pool;
  for (job->j = 0; job->j < p->n; job->j += job->n_block)
    for (job->l = 0; job->l < p->k; job->l += k_block(p)) {
      job->n = least(p->n - job->j, job->n_block);
      job->k = least(p->k - job->l, k_block(p));
      plan(job, pool_threads(pool));
      look_ahead(job, stream);
      int64_t tall = divide_up(p->m, job->m_task), across = divide_up(job->n, job->n_task);
      TRY(pool_run(pool, divide_up(job->n, PACK_TASK) + (across > 1 ? tall : 0), pack_task, job));
      TRY(pool_run(pool, tall * across, multiply_task, job));
    }
  return OK;
}

/* The job of the i-th of many products. */
static Job batch_of(const Job *all, int64_t i) {
  Job job = *all;
  const Product *p = job.p;
  int64_t a, b;
  product_batch(p, i, &a, &b);
  job.a_at = a * p->m * p->k;
  job.b_at = b * p->k * p->n;
  job.c_at = i * p->m * p->n;
  return job;
}

/* One of many small products. */
static Status batch_task(void *context, int64_t i, void *scratch) {
  Job job = batch_of(context, i);
  const Product *p = job.p;
  int64_t most = M_BLOCK - M_BLOCK % job.loops->rows;
  char *rows = (char *)scratch + packed_bytes(p, p->n);
  job.n = p->n;
  if (job.sums)
    job.sums = (float *)(rows + (M_BLOCK + WIDEST) * k_block(p) * sizeof(float));
  if (job.loops->begin)
    job.loops->begin();
  for (job.l = 0; job.l < p->k; job.l += k_block(p)) {
    job.k = least(p->k - job.l, k_block(p));
    pack_columns(&job, 0, p->n, scratch);
    for (int64_t row = 0; row < p->m; row += most) {
      int64_t m = least(p->m - row, most);
      pack_rows(&job, row, m, rows);
      multiply(&job, row, m, 0, p->n, rows, scratch);
    }
  }
  if (job.loops->end)
    job.loops->end();
  return OK;
}

/* Nothing is summed: C is beta D, or as it is. */
static void without_terms(const Job *job) {
  const Product *p = job->p;
  _Alignas(64) float zeros[WIDEST * WIDEST];
  for (int64_t i = 0; i < p->m * p->batches && !job->call->adds; i++)
    for (int64_t j = 0; j < p->n; j += job->loops->columns) {
      memset(zeros, 0, sizeof zeros);
      finish_tile(job, i, j, 1, least(p->n - j, job->loops->columns), zeros, NULL, 0);
    }
}

Status product_bf16(Stream *stream, const ProductBf16 *call, void *workspace) {
  const Product *p = call->p;
  bool sums = keeps_sums(p, call->out->dtype);
  Job job = {.call = call,
             .p = p,
             .loops = &stream->isa->bf16,
             .a = &call->in[0],
             .b = &call->in[1],
             .c = call->out,
             .packed = workspace,
             .n_block = block_of(p, sums)};
  if (call->d) {
    const Shape *d = &call->d->shape;
    job.d_column = d->rank && d->dim[d->rank - 1] > 1;
    job.d_row = d->rank > 1 && d->dim[d->rank - 2] > 1 ? d->dim[d->rank - 1] : 0;
  }
  if (p->m * p->n * p->batches == 0)
    return OK;
  if (p->k == 0) {
    without_terms(&job);
    return OK;
  }
  if (sums)
    job.sums = (float *)((char *)workspace + packed_bytes(p, job.n_block));
  job.packed_a = (char *)workspace + packed_bytes(p, job.n_block) + (sums ? sums_bytes(p, job.n_block) : 0);
  if (p->batches > 1 && fits_scratch(p, sums))
    return pool_run(stream->pool, p->batches, batch_task, &job);
  for (int64_t i = 0; i < p->batches; i++) {
    Job one = batch_of(&job, i);
    TRY(one_product(&one, stream));
  }
  stream->n_soon = 0;
  return OK;
}
