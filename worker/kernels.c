/* What a decoder does between its matrix products, on a CPU: norms, SwiGLU, rotary positions, and attention over the
 * paged KV cache. Plain C with vector types of GCC and clang, compiled on the machine it runs on (worker/native.py).
 * Numbers are stored as float, or as bfloat16 with -DBF16, and computed in float. Widths are multiples of 16.
 */
#include <stdint.h>
#include <string.h>

typedef float vec __attribute__((vector_size(64)));      /* 16 numbers */
typedef uint32_t bits __attribute__((vector_size(64)));  /* the same, as integers */
typedef uint16_t half_bits __attribute__((vector_size(32)));

#define LANES 16
#define MAX_DIM 256  /* of a head */
#define MAX_ROWS 64  /* query rows of one tile: queries times the heads that share a KV head */
#define CHUNK 64     /* keys that a tile looks at together */
#define PARALLEL_FROM 32768 /* numbers below which waking another thread costs more than it saves */
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

static inline vec load(const number *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(number *to, vec x) { memcpy(to, &x, sizeof x); }
#endif

static inline vec choose(bits mask, vec yes, vec no) { return (vec)((mask & (bits)yes) | (~mask & (bits)no)); }

static inline vec larger(vec a, vec b) { return choose((bits)(a > b), a, b); }

static inline vec all(float x) { return (vec){0} + x; }

static inline float sum(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
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
        for (int r = 0; r < 4; r++) memcpy(sums[r], c + r * ldc + at, sizeof sums[r]);
        for (int k = 0; k < inner; k++) {
            vec b_row[4];
            memcpy(b_row, b + (long)k * ldb + at, sizeof b_row);
            for (int r = 0; r < 4; r++) {
                vec x = all(a[r * lda + k]);
                for (int i = 0; i < 4; i++) sums[r][i] += x * b_row[i];
            }
        }
        for (int r = 0; r < 4; r++) memcpy(c + r * ldc + at, sums[r], sizeof sums[r]);
    }
    for (; at < columns; at += LANES)
        for (int r = 0; r < 4; r++) {
            vec total;
            memcpy(&total, c + r * ldc + at, sizeof total);
            for (int k = 0; k < inner; k++) {
                vec b_part;
                memcpy(&b_part, b + (long)k * ldb + at, sizeof b_part);
                total += all(a[r * lda + k]) * b_part;
            }
            memcpy(c + r * ldc + at, &total, sizeof total);
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
        for (int i = 0; i < LANES; i++) memcpy(to + (d + i) * CHUNK, &m[i], sizeof(vec));
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

/* Keys and values [first, first + count) of a sequence, through its block table, for one KV head. */
static void gather(Tile *tile, const number *keys, const number *values, const int32_t *blocks, int block_size, int dim,
                   int first, int count) {
    for (int done = 0; done < count; done += LANES) {
        int position = first + done, num = count - done < LANES ? count - done : LANES;
        long at = ((long)blocks[position / block_size] * block_size + position % block_size) * dim;
        transpose_keys(keys + at, num, dim, tile->keys + done);
        for (int i = 0; i < num * dim; i += LANES) {
            vec x = load(values + at + i);
            memcpy(tile->values + (long)done * dim + i, &x, sizeof x);
        }
    }
}

/* Scores of one row to weights, and what came before brought to the same scale. Keys in [from, to) are seen. */
static void soften(Tile *tile, int row, int from, int to, int width, int dim) {
    float *scores = tile->scores + row * CHUNK;
    vec most = all(tile->most[row]);
    for (int i = 0; i < width; i += LANES) {
        vec x;
        memcpy(&x, scores + i, sizeof x);
        if (i < from || i + LANES > to)
            for (int j = 0; j < LANES; j++)
                if (i + j < from || i + j >= to) x[j] = MINUS_INFINITY;
        memcpy(scores + i, &x, sizeof x);
        most = larger(x, most);
    }
    float top = most[0];
    for (int j = 1; j < LANES; j++) top = most[j] > top ? most[j] : top;
    if (top == MINUS_INFINITY) { /* nothing seen yet */
        memset(scores, 0, width * sizeof *scores);
        return;
    }
    vec added = all(0);
    for (int i = 0; i < width; i += LANES) {
        vec x;
        memcpy(&x, scores + i, sizeof x);
        x = exponential(x - top);
        added += x;
        memcpy(scores + i, &x, sizeof x);
    }
    float shrink = exponential(all(tile->most[row] - top))[0];
    tile->most[row] = top;
    tile->total[row] = tile->total[row] * shrink + sum(added);
    if (shrink != 1.0f)
        for (int i = 0; i < dim; i++) tile->sums[row * dim + i] *= shrink;
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
        Tile tile;
        for (int r = 0; r < rows; r++) {
            const number *query = qkv + (first_token + r / shared) * stride + (head * shared + r % shared) * dim;
            for (int i = 0; i < dim; i += LANES) {
                vec x = load(query + i) * scale;
                memcpy(tile.queries + r * dim + i, &x, sizeof x);
            }
            tile.most[r] = MINUS_INFINITY;
            tile.total[r] = 0;
        }
        memset(tile.queries + rows * dim, 0, (padded - rows) * dim * sizeof(float));
        memset(tile.sums, 0, padded * dim * sizeof(float));
        int num_keys = position + queries;
        int begin = window && position + 1 > window ? (position + 1 - window) / LANES * LANES : 0;
        for (int first = begin; first < num_keys; first += CHUNK) {
            int count = num_keys - first < CHUNK ? num_keys - first : CHUNK;
            int width = (count + LANES - 1) / LANES * LANES;
            gather(&tile, keys + head * num_slots * dim, values + head * num_slots * dim, tables + item[3], block_size, dim,
                   first, count);
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
            for (int i = 0; i < dim; i += LANES) {
                vec x;
                memcpy(&x, tile.sums + r * dim + i, sizeof x);
                store(to + i, x * share);
            }
        }
    }
}
