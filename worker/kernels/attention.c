/* Attention over the paged KV cache: every sequence over its own blocks, in tiles of queries and chunks of keys. */
#include "numbers.h"

#define MINUS_INFINITY (-__builtin_inff())
#define AHEAD (2 * CHUNK) /* keys asked for before they are needed */
#define CHUNK 64     /* keys that a tile looks at together */
#define MAX_ROWS 64  /* query rows of one tile: queries times the heads that share a KV head */
#define MAX_DIM 256  /* of a head */

/* What the products of the attention take: with instructions for it two bfloat16 in a word, else a float. */
#if defined(BF16) && defined(__AVX512BF16__)
#include <immintrin.h>
#define IN_WORD 2 /* numbers */
typedef number operand;

static inline vec load_words(const number *from) { return FLOATS(from); } /* 16 of them */

static inline vec multiply_add(vec a, vec b, vec sum) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

static inline void store_operand(operand *to, vec x) { store(to, x); }
#else
#define IN_WORD 1
typedef float operand;

static inline vec load_words(const number *from) { return load(from); }

static inline vec multiply_add(vec a, vec b, vec sum) { return a * b + sum; }

static inline void store_operand(operand *to, vec x) { FLOATS(to) = x; }
#endif

static inline vec broadcast(const operand *word) {
    float x;
    memcpy(&x, word, sizeof x);
    return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

/* c += a b for 4 rows of a, row by row, their lengths in operands: a [4, inner], c [4, columns] of floats; b holds IN_WORD
 * rows in each of its own, [inner / IN_WORD, columns * IN_WORD]. columns % 16 == 0.
 */
static inline void multiply_4(const operand *a, int lda, const operand *b, int ldb, float *c, int ldc, int inner,
                              int columns) {
    int at = 0;
    for (; at + 4 * LANES <= columns; at += 4 * LANES) {
        vec sums[4][4];
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 4; i++) sums[r][i] = FLOATS(c + r * ldc + at + i * LANES);
        for (int k = 0; k < inner; k += IN_WORD) {
            const operand *row = b + (long)k * ldb + at * IN_WORD;
            vec b0 = FLOATS(row), b1 = FLOATS(row + LANES * IN_WORD);
            vec b2 = FLOATS(row + 2 * LANES * IN_WORD), b3 = FLOATS(row + 3 * LANES * IN_WORD);
            for (int r = 0; r < 4; r++) {
                vec x = broadcast(a + r * lda + k);
                sums[r][0] = multiply_add(x, b0, sums[r][0]);
                sums[r][1] = multiply_add(x, b1, sums[r][1]);
                sums[r][2] = multiply_add(x, b2, sums[r][2]);
                sums[r][3] = multiply_add(x, b3, sums[r][3]);
            }
        }
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 4; i++) FLOATS(c + r * ldc + at + i * LANES) = sums[r][i];
    }
    for (; at < columns; at += LANES) {
        vec sums[4];
        for (int r = 0; r < 4; r++) sums[r] = FLOATS(c + r * ldc + at);
        for (int k = 0; k < inner; k += IN_WORD) {
            vec b0 = FLOATS(b + (long)k * ldb + at * IN_WORD);
            for (int r = 0; r < 4; r++) sums[r] = multiply_add(broadcast(a + r * lda + k), b0, sums[r]);
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

/* Up to 16 keys [count, dim] into columns of to [dim / IN_WORD, CHUNK] words; the columns beyond `count` become zero. */
static void transpose_keys(const number *from, int count, int dim, operand *to) {
    for (int d = 0; d < dim; d += LANES * IN_WORD) {
        vec m[LANES];
        for (int i = 0; i < LANES; i++) m[i] = i < count ? load_words(from + (long)i * dim + d) : all(0);
        SWAP_BLOCKS(m, 1)
        SWAP_BLOCKS(m, 2)
        SWAP_BLOCKS(m, 4)
        SWAP_BLOCKS(m, 8)
        for (int i = 0; i < LANES; i++) FLOATS(to + (d + i * IN_WORD) * CHUNK) = m[i];
    }
}

/* `count` values [count, dim] into to [count / IN_WORD, dim] words, a missing last one taken as zero. */
static void gather_values(const number *from, int count, int dim, operand *to) {
#if IN_WORD == 2
    for (int i = 0; i < count; i += 2)
        for (int d = 0; d < dim; d += LANES) {
            bits even = (bits)load(from + (long)i * dim + d) >> 16;
            bits odd = i + 1 < count ? (bits)load(from + (long)(i + 1) * dim + d) : (bits){0};
            FLOATS(to + (long)i * dim + 2 * d) = (vec)(even | odd);
        }
#else
    for (int i = 0; i < count * dim; i += LANES) FLOATS(to + i) = load(from + i);
#endif
}

/* What one thread needs for a tile. */
typedef struct {
    operand queries[MAX_ROWS * MAX_DIM];
    operand keys[MAX_DIM * CHUNK];   /* [dim / IN_WORD, CHUNK] words */
    operand values[CHUNK * MAX_DIM]; /* [CHUNK / IN_WORD, dim] words */
    operand weights[MAX_ROWS * CHUNK];
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
        transpose_keys(keys + at, num, dim, tile->keys + done * IN_WORD);
        gather_values(values + at, num, dim, tile->values + (long)done * dim);
    }
}

/* Scores of one row, times `scale`, to weights, and what came before brought to the same measure. Keys in [from, to) are
 * seen.
 */
static void soften(Tile *tile, int row, int from, int to, int width, int dim, float scale) {
    const bits lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float *scores = tile->scores + row * CHUNK;
    vec most = all(tile->most[row]);
    for (int i = 0; i < width; i += LANES) {
        FLOATS(scores + i) *= scale;
        if (i < from || i + LANES > to) {
            int first = from > i ? from - i : 0, last = to > i ? to - i : 0;
            bits is_seen = (bits)(lane >= (uint32_t)first) & (bits)(lane < (uint32_t)last);
            FLOATS(scores + i) = choose(is_seen, FLOATS(scores + i), all(MINUS_INFINITY));
        }
        most = larger(FLOATS(scores + i), most);
    }
    float top = largest(most);
    if (top == MINUS_INFINITY) { /* nothing seen yet */
        memset(tile->weights + row * CHUNK, 0, width * sizeof(operand));
        return;
    }
    vec added = all(0);
    for (int i = 0; i < width; i += LANES) {
        vec x = exponential(FLOATS(scores + i) - top);
        added += x;
        store_operand(tile->weights + row * CHUNK + i, x);
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
            for (int i = 0; i < dim; i += LANES) store_operand(tile.queries + r * dim + i, load(query + i));
            tile.most[r] = MINUS_INFINITY;
            tile.total[r] = 0;
        }
        memset(tile.queries + rows * dim, 0, (padded - rows) * dim * sizeof(operand));
        memset(tile.weights + rows * CHUNK, 0, (padded - rows) * CHUNK * sizeof(operand));
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
                soften(&tile, r, from > 0 ? from : 0, smaller(seen, count), width, dim, scale);
            }
            for (int r = 0; r < rows; r += 4)
                multiply_4(tile.weights + r * CHUNK, CHUNK, tile.values, dim, tile.sums + r * dim, dim, count, dim);
        }
        for (int r = 0; r < rows; r++) {
            number *to = out + ((long)(first_token + r / shared) * heads + head * shared + r % shared) * dim;
            vec share = all(1.0f / tile.total[r]);
            for (int i = 0; i < dim; i += LANES) store(to + i, FLOATS(tile.sums + r * dim + i) * share);
        }
    }
}
