/* What a decoder does between its matrix products, on a CPU: norms, SwiGLU, rotary positions, and attention over the
 * paged KV cache. Plain C with vector types of GCC and clang, compiled on the machine it runs on (worker/native.py).
 * Numbers are stored as float, or as bfloat16 with -DBF16, and computed in float. Widths are multiples of 16.
 */
#include <stdint.h>
#include <string.h>

typedef float vec __attribute__((vector_size(64)));      /* 16 numbers */
typedef uint32_t bits __attribute__((vector_size(64)));  /* the same, as integers */
typedef uint16_t half_bits __attribute__((vector_size(32)));
typedef float unaligned __attribute__((vector_size(64), aligned(4), may_alias));

#define FLOATS(address) (*(unaligned *)(address)) /* 16 floats in memory, to read or to write */

#define LANES 16
#define MAX_DIM 256  /* of a head */
#define MAX_ROWS 64  /* query rows of one tile: queries times the heads that share a KV head */
#define CHUNK 64     /* keys that a tile looks at together */
#define PARALLEL_FROM 32768 /* numbers below which waking another thread costs more than it saves */
#define AHEAD (2 * CHUNK) /* keys asked for before they are needed */
#define MINUS_INFINITY (-__builtin_inff())

#ifdef BF16
typedef uint16_t number;

static inline vec load(const number *from) {
    half_bits raw;
    memcpy(&raw, from, sizeof raw);
    return (vec)(__builtin_convertvector(raw, bits) << 16);
}

static inline void store(number *to, vec x) { /* to the nearest, ties to even; NaN stays NaN */
    bits raw = (bits)x, is_nan = (bits)(x != x);
    raw = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
    half_bits rounded = __builtin_convertvector((raw & ~is_nan) | (0x7fc0 & is_nan), half_bits);
    memcpy(to, &rounded, sizeof rounded);
}
#else
typedef float number;

static inline vec load(const number *from) { return FLOATS(from); }

static inline void store(number *to, vec x) { FLOATS(to) = x; }
#endif

static inline int smaller(int a, int b) { return a < b ? a : b; }

static inline vec choose(bits mask, vec yes, vec no) { return (vec)((mask & (bits)yes) | (~mask & (bits)no)); }

static inline vec larger(vec a, vec b) { return choose((bits)(a > b), a, b); }

static inline vec all(float x) { return (vec){0} + x; }

#define ROTATED(x, n) \
    __builtin_shuffle(x, (bits){(n) % 16, (1 + n) % 16, (2 + n) % 16, (3 + n) % 16, (4 + n) % 16, (5 + n) % 16, \
                                (6 + n) % 16, (7 + n) % 16, (8 + n) % 16, (9 + n) % 16, (10 + n) % 16, (11 + n) % 16, \
                                (12 + n) % 16, (13 + n) % 16, (14 + n) % 16, (15 + n) % 16})

static inline float sum(vec x) {
    x += ROTATED(x, 8);
    x += ROTATED(x, 4);
    x += ROTATED(x, 2);
    return (x + ROTATED(x, 1))[0];
}

static inline float largest(vec x) {
    x = larger(x, ROTATED(x, 8));
    x = larger(x, ROTATED(x, 4));
    x = larger(x, ROTATED(x, 2));
    return larger(x, ROTATED(x, 1))[0];
}

/* e^x to about two units in the last place; 0 below -87, also for -infinity. */
static inline vec exponential(vec x) {
    bits is_tiny = (bits)(x < -87.0f);
    x = choose((bits)(x > 88.0f), all(88.0f), choose(is_tiny, all(-87.0f), x));
    vec shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the nearest integer is in the low bits */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693145752f - n * 1.42860677e-6f;
    vec p = all(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vec power = (vec)(((bits)shifted << 23) + 0x3f800000);
    return choose(is_tiny, all(0), p * power);
}

static float inverse_rms(const number *x, int width, float eps) {
    vec squares = all(0);
    for (int i = 0; i < width; i += LANES) {
        vec v = load(x + i);
        squares += v * v;
    }
    return 1.0f / __builtin_sqrtf(sum(squares) / width + eps);
}

/* hidden += change; out = norm(hidden) * weight; all [tokens, width]. Without `change`, hidden stays. */
void add_norm(number *hidden, const number *change, const number *weight, number *out, int tokens, int width, float eps) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        number *own = hidden + (long)t * width, *result = out + (long)t * width;
        if (change)
            for (int i = 0; i < width; i += LANES) store(own + i, load(own + i) + load(change + (long)t * width + i));
        vec scale = all(inverse_rms(own, width, eps));
        for (int i = 0; i < width; i += LANES) store(result + i, load(own + i) * scale * load(weight + i));
    }
}

/* out = silu(gate) * up; gate_up [tokens, 2 * width], out [tokens, width]. */
void swiglu(const number *gate_up, number *out, int tokens, int width) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        const number *gate = gate_up + 2L * t * width, *up = gate + width;
        for (int i = 0; i < width; i += LANES) {
            vec x = load(gate + i);
            store(out + (long)t * width + i, x / (1.0f + exponential(-x)) * load(up + i));
        }
    }
}

/* One head rotated from `x` to `to`, normed before if there is a weight. */
static void rotate(const number *x, number *to, const number *cos, const number *sin, const number *norm, float eps, int dim) {
    vec scale = all(norm ? inverse_rms(x, dim, eps) : 1.0f);
    for (int i = 0, j = dim / 2; i < dim / 2; i += LANES, j += LANES) {
        vec a = load(x + i) * scale, b = load(x + j) * scale;
        if (norm) {
            a *= load(norm + i);
            b *= load(norm + j);
        }
        store(to + i, a * load(cos + i) - b * load(sin + i));
        store(to + j, b * load(cos + j) + a * load(sin + j));
    }
}

/* Rotates the queries of qkv [tokens, heads + 2 * kv_heads, dim] in place and its keys into the pool, beside the values.
 * Pools are [kv_heads, num_slots, dim]; slots [tokens]; cos and sin [tokens, dim]; the norms [dim] or null.
 */
void rotate_and_write(number *qkv, const number *cos, const number *sin, const number *query_norm, const number *key_norm,
                      float eps, const int64_t *slots, number *keys, number *values, long num_slots, int tokens, int heads,
                      int kv_heads, int dim) {
#pragma omp parallel for if ((long)tokens * (heads + kv_heads) * dim >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        number *own = qkv + (long)t * (heads + 2 * kv_heads) * dim;
        const number *c = cos + (long)t * dim, *s = sin + (long)t * dim;
        for (int h = 0; h < heads; h++) rotate(own + h * dim, own + h * dim, c, s, query_norm, eps, dim);
        for (int h = 0; h < kv_heads; h++) {
            long at = (h * num_slots + slots[t]) * dim;
            rotate(own + (heads + h) * dim, keys + at, c, s, key_norm, eps, dim);
            memcpy(values + at, own + (heads + kv_heads + h) * dim, dim * sizeof(number));
        }
    }
}

/* c += a b for 4 rows of a; a [4, inner], b [inner, columns], c [4, columns], float, row by row; columns % 16 == 0. */
static inline void multiply_4(const float *a, int lda, const float *b, int ldb, float *c, int ldc, int inner, int columns) {
    int at = 0;
    for (; at + 4 * LANES <= columns; at += 4 * LANES) {
        vec sums[4][4];
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 4; i++) sums[r][i] = FLOATS(c + r * ldc + at + i * LANES);
        for (int k = 0; k < inner; k++) {
            const float *row = b + (long)k * ldb + at;
            vec b0 = FLOATS(row), b1 = FLOATS(row + LANES), b2 = FLOATS(row + 2 * LANES), b3 = FLOATS(row + 3 * LANES);
            for (int r = 0; r < 4; r++) {
                vec x = all(a[r * lda + k]);
                sums[r][0] += x * b0;
                sums[r][1] += x * b1;
                sums[r][2] += x * b2;
                sums[r][3] += x * b3;
            }
        }
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 4; i++) FLOATS(c + r * ldc + at + i * LANES) = sums[r][i];
    }
    for (; at < columns; at += LANES) {
        vec sums[4];
        for (int r = 0; r < 4; r++) sums[r] = FLOATS(c + r * ldc + at);
        for (int k = 0; k < inner; k++) {
            vec b0 = FLOATS(b + (long)k * ldb + at);
            for (int r = 0; r < 4; r++) sums[r] += all(a[r * lda + k]) * b0;
        }
        for (int r = 0; r < 4; r++) FLOATS(c + r * ldc + at) = sums[r];
    }
}

/* Swaps the off-diagonal blocks of side `s`: with 1, 2, 4 and 8 a 16 x 16 matrix is transposed. */
#define A(j, s) ((j) & (s) ? 16 + (j) - (s) : (j))
#define B(j, s) ((j) & (s) ? 16 + (j) : (j) + (s))
#define MASK(f, s) \
    ((bits){f(0, s), f(1, s), f(2, s), f(3, s), f(4, s), f(5, s), f(6, s), f(7, s), f(8, s), f(9, s), f(10, s), \
            f(11, s), f(12, s), f(13, s), f(14, s), f(15, s)})
#define SWAP_BLOCKS(m, s) \
    for (int i = 0; i < LANES; i++) \
        if (!(i & (s))) { \
            vec a = m[i], b = m[i + (s)]; \
            m[i] = __builtin_shuffle(a, b, MASK(A, s)); \
            m[i + (s)] = __builtin_shuffle(a, b, MASK(B, s)); \
        }

/* Up to 16 keys [count, dim] into columns of to [dim, CHUNK]; the columns beyond `count` become zero. */
static void transpose_keys(const number *from, int count, int dim, float *to) {
    for (int d = 0; d < dim; d += LANES) {
        vec m[LANES];
        for (int i = 0; i < LANES; i++) m[i] = i < count ? load(from + (long)i * dim + d) : all(0);
        SWAP_BLOCKS(m, 1)
        SWAP_BLOCKS(m, 2)
        SWAP_BLOCKS(m, 4)
        SWAP_BLOCKS(m, 8)
        for (int i = 0; i < LANES; i++) FLOATS(to + (d + i) * CHUNK) = m[i];
    }
}

/* What one thread needs for a tile. */
typedef struct {
    float queries[MAX_ROWS * MAX_DIM];
    float keys[MAX_DIM * CHUNK];   /* [dim, CHUNK] */
    float values[CHUNK * MAX_DIM]; /* [CHUNK, dim] */
    float scores[MAX_ROWS * CHUNK];
    float sums[MAX_ROWS * MAX_DIM]; /* weighted values so far, [rows, dim] */
    float most[MAX_ROWS], total[MAX_ROWS];
} Tile;

/* Asks for the keys and values [first, last) of a sequence: blocks lie anywhere, which no processor foresees. */
static void prefetch(const number *keys, const number *values, const int32_t *blocks, int block_size, int dim, int first,
                     int last) {
    for (int position = first; position < last; position += LANES) {
        long at = ((long)blocks[position / block_size] * block_size + position % block_size) * dim;
        for (int i = 0; i < LANES * dim; i += 64 / (int)sizeof(number)) {
            __builtin_prefetch(keys + at + i);
            __builtin_prefetch(values + at + i);
        }
    }
}

/* Keys and values [first, first + count) of a sequence, through its block table, for one KV head. */
static void gather(Tile *tile, const number *keys, const number *values, const int32_t *blocks, int block_size, int dim,
                   int first, int count) {
    for (int done = 0; done < count; done += LANES) {
        int position = first + done, num = smaller(LANES, count - done);
        long at = ((long)blocks[position / block_size] * block_size + position % block_size) * dim;
        transpose_keys(keys + at, num, dim, tile->keys + done);
        for (int i = 0; i < num * dim; i += LANES) FLOATS(tile->values + (long)done * dim + i) = load(values + at + i);
    }
}

/* Scores of one row to weights, and what came before brought to the same scale. Keys in [from, to) are seen. */
static void soften(Tile *tile, int row, int from, int to, int width, int dim) {
    const bits lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float *scores = tile->scores + row * CHUNK;
    vec most = all(tile->most[row]);
    for (int i = 0; i < width; i += LANES) {
        if (i < from || i + LANES > to) {
            int first = from > i ? from - i : 0, last = to > i ? to - i : 0;
            bits is_seen = (bits)(lane >= (uint32_t)first) & (bits)(lane < (uint32_t)last);
            FLOATS(scores + i) = choose(is_seen, FLOATS(scores + i), all(MINUS_INFINITY));
        }
        most = larger(FLOATS(scores + i), most);
    }
    float top = largest(most);
    if (top == MINUS_INFINITY) { /* nothing seen yet */
        memset(scores, 0, width * sizeof *scores);
        return;
    }
    vec added = all(0);
    for (int i = 0; i < width; i += LANES) {
        vec x = exponential(FLOATS(scores + i) - top);
        added += x;
        FLOATS(scores + i) = x;
    }
    float shrink = tile->most[row] == top ? 1.0f : exponential(all(tile->most[row] - top))[0];
    tile->most[row] = top;
    tile->total[row] = tile->total[row] * shrink + sum(added);
    if (shrink != 1.0f)
        for (int i = 0; i < dim; i += LANES) FLOATS(tile->sums + row * dim + i) *= shrink;
}

/* Attention of `items` tiles, each some queries of one sequence, for every KV head.
 *
 * qkv [tokens, heads + 2 * kv_heads, dim] holds rotated queries; pools as above; out [tokens, heads, dim]. An item is
 * four numbers: its first token, how many tokens, the position of the first of them, and where its block table begins
 * in `tables`. `window` is how far back a token sees, itself included; 0: all.
 */
void attend(const number *qkv, const number *keys, const number *values, long num_slots, int block_size,
            const int32_t *tables, const int32_t *item_list, int items, int heads, int kv_heads, int dim, float scale,
            int window, number *out) {
    int shared = heads / kv_heads;
    long stride = (long)(heads + 2 * kv_heads) * dim;
#pragma omp parallel for schedule(dynamic, 1) if (items > 1 || item_list[2] > 64)
    for (int work = 0; work < items * kv_heads; work++) {
        const int32_t *item = item_list + 4 * (work / kv_heads);
        int head = work % kv_heads, first_token = item[0], queries = item[1], position = item[2];
        int rows = queries * shared, padded = (rows + 3) / 4 * 4;
        int num_keys = position + queries;
        int begin = window && position + 1 > window ? (position + 1 - window) / LANES * LANES : 0; /* where it looks first */
        const number *own_keys = keys + head * num_slots * dim, *own_values = values + head * num_slots * dim;
        const int32_t *blocks = tables + item[3];
        prefetch(own_keys, own_values, blocks, block_size, dim, begin, smaller(begin + AHEAD, num_keys));
        Tile tile;
        for (int r = 0; r < rows; r++) {
            const number *query = qkv + (first_token + r / shared) * stride + (head * shared + r % shared) * dim;
            for (int i = 0; i < dim; i += LANES) FLOATS(tile.queries + r * dim + i) = load(query + i) * scale;
            tile.most[r] = MINUS_INFINITY;
            tile.total[r] = 0;
        }
        memset(tile.queries + rows * dim, 0, (padded - rows) * dim * sizeof(float));
        memset(tile.sums, 0, padded * dim * sizeof(float));
        for (int first = begin; first < num_keys; first += CHUNK) {
            int count = smaller(CHUNK, num_keys - first), width = (count + LANES - 1) / LANES * LANES;
            prefetch(own_keys, own_values, blocks, block_size, dim, first + AHEAD, smaller(first + AHEAD + CHUNK, num_keys));
            gather(&tile, own_keys, own_values, blocks, block_size, dim, first, count);
            memset(tile.scores, 0, padded * CHUNK * sizeof(float));
            for (int r = 0; r < rows; r += 4)
                multiply_4(tile.queries + r * dim, dim, tile.keys, CHUNK, tile.scores + r * CHUNK, CHUNK, dim, width);
            for (int r = 0; r < rows; r++) {
                int seen = position + r / shared + 1 - first; /* keys of this chunk that are not later than the query */
                int from = window ? seen - window : 0;
                soften(&tile, r, from > 0 ? from : 0, seen < count ? seen : count, width, dim);
            }
            for (int r = 0; r < rows; r += 4)
                multiply_4(tile.scores + r * CHUNK, CHUNK, tile.values, dim, tile.sums + r * dim, dim, count, dim);
        }
        for (int r = 0; r < rows; r++) {
            number *to = out + ((long)(first_token + r / shared) * heads + head * shared + r % shared) * dim;
            vec share = all(1.0f / tile.total[r]);
            for (int i = 0; i < dim; i += LANES) store(to + i, FLOATS(tile.sums + r * dim + i) * share);
        }
    }
}
