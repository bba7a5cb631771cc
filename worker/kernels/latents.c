/* Attention over paged latents: one vector of a token, which is the key of all heads, and whose first numbers are their
 * value. In the pool latents lie one after the other, [slots, width].
 */
#include "softmax.h"

#define MAX_ROWS 128  /* queries of a tile: tokens times heads */
#define MAX_WIDTH 640 /* of a latent */
#define MAX_RANK 512  /* its numbers that are values */
#define WORDS (LANES * IN_WORD) /* numbers that are multiplied at once */
#define PAIR (2 * LANES)        /* columns of values that are added at once */
#define VALUE_ROWS 8            /* queries, whose values are added at once */
#define PARALLEL_FROM 16384     /* numbers; with fewer, waking another thread costs more than it saves */

/* Rotates [rotated] numbers into `to`, as halves: those that are rotated together are neighbours, or already halves. */
static void turn(const number *from, const number *cos, const number *sin, int rotated, int interleaves, number *to) {
    int half = rotated / 2;
    for (int i = 0; i < half; i += LANES) {
        float a[LANES], b[LANES];
        for (int k = 0; k < LANES; k++) {
            a[k] = one(from + (interleaves ? 2 * (i + k) : i + k));
            b[k] = one(from + (interleaves ? 2 * (i + k) + 1 : half + i + k));
        }
        store(to + i, FLOATS(a) * load(cos + i) - FLOATS(b) * load(sin + i));
        store(to + half + i, FLOATS(b) * load(cos + half + i) + FLOATS(a) * load(sin + half + i));
    }
}

/* out [tokens, width] = norm(x) * weight, of rows that are `stride` apart. */
void norm_rows(const number *x, long stride, const number *weight, number *out, int tokens, int width, float eps) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) normalize(x + t * stride, weight, out + (long)t * width, width, eps);
}

/* Norms and rotates the latents of tokens, [rank + rotated] each, into the `slots` [tokens] of the pool; rotates the last
 * numbers of queries, [heads, query_dim] each, into those of `absorbed` [tokens, heads, rank + rotated]. Latents and queries
 * of neighbouring tokens are `latent_stride` and `query_stride` apart; cos and sin [tokens, rotated], a multiple of 32.
 */
void write_latents(const number *latents, long latent_stride, const number *queries, long query_stride, const number *cos,
                   const number *sin, const number *norm, float eps, const int64_t *slots, number *pool, number *absorbed,
                   int tokens, int heads, int query_dim, int rank, int rotated, int interleaves) {
    int width = rank + rotated;
#pragma omp parallel for if ((long)tokens * heads * rotated >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        const number *own = latents + t * latent_stride, *c = cos + (long)t * rotated, *s = sin + (long)t * rotated;
        number *to = pool + slots[t] * width;
        normalize(own, norm, to, rank, eps);
        turn(own + rank, c, s, rotated, interleaves, to + rank);
        for (int h = 0; h < heads; h++)
            turn(queries + t * query_stride + (h + 1) * query_dim - rotated, c, s, rotated, interleaves,
                 absorbed + ((long)t * heads + h) * width + rank);
    }
}

#define MERGED(a, b, n) /* sums of neighbouring parts of n lanes, those of a before those of b */ \
    (__builtin_shuffle(a, b, (bits){PARTS(n, 0)}) + __builtin_shuffle(a, b, (bits){PARTS(n, n)}))
#define PARTS(n, from) \
    AT(0, n) + from, AT(1, n) + from, AT(2, n) + from, AT(3, n) + from, AT(4, n) + from, AT(5, n) + from, AT(6, n) + from, \
        AT(7, n) + from, AT(8, n) + from, AT(9, n) + from, AT(10, n) + from, AT(11, n) + from, AT(12, n) + from, \
        AT(13, n) + from, AT(14, n) + from, AT(15, n) + from
#define AT(i, n) ((i) / (n) * 2 * (n) + (i) % (n))

/* The sums of 16 vectors, in their order. */
static inline vec sums_of(const vec *x) {
    vec by_8[8], by_4[4], by_2[2];
    for (int i = 0; i < 8; i++) by_8[i] = MERGED(x[2 * i], x[2 * i + 1], 8);
    for (int i = 0; i < 4; i++) by_4[i] = MERGED(by_8[2 * i], by_8[2 * i + 1], 4);
    for (int i = 0; i < 2; i++) by_2[i] = MERGED(by_4[2 * i], by_4[2 * i + 1], 2);
    return MERGED(by_2[0], by_2[1], 1);
}

/* Scores [4, CHUNK] of 4 queries [4, width] for 4 keys, written from `scores` on. */
static inline void score_4x4(const operand *queries, const number *const *keys, int width, float *scores) {
    vec found[16];
    for (int i = 0; i < 16; i++) found[i] = all(0);
    for (int d = 0; d < width; d += WORDS) {
        vec x[4];
        for (int k = 0; k < 4; k++) x[k] = load_words(keys[k] + d);
        for (int r = 0; r < 4; r++) {
            vec query = FLOATS(queries + r * width + d);
            for (int k = 0; k < 4; k++) found[4 * r + k] = multiply_add(query, x[k], found[4 * r + k]);
        }
    }
    vec all_16 = sums_of(found);
    for (int r = 0; r < 4; r++) memcpy(scores + r * CHUNK, (const float *)&all_16 + 4 * r, 4 * sizeof(float));
}

/* PAIR columns of a word of keys: where words are pairs, neighbouring keys are interleaved, and the columns are in an order
 * of their own, see in_order().
 */
static inline void load_columns(const number *const *keys, int column, vec *to) {
#if IN_WORD == 2
    __m512i a = _mm512_loadu_si512(keys[0] + column), b = _mm512_loadu_si512(keys[1] + column);
    to[0] = (vec)_mm512_unpacklo_epi16(a, b);
    to[1] = (vec)_mm512_unpackhi_epi16(a, b);
#else
    to[0] = load(keys[0] + column);
    to[1] = load(keys[0] + column + LANES);
#endif
}

static inline void in_order(const vec *from, vec *to) {
#if IN_WORD == 2
    to[0] = __builtin_shuffle(from[0], from[1], (bits){0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23});
    to[1] = __builtin_shuffle(from[0], from[1], (bits){8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31});
#else
    to[0] = from[0];
    to[1] = from[1];
#endif
}

/* sums [VALUE_ROWS, rank] += weights [VALUE_ROWS, CHUNK] times the first `count` keys. */
static void add_values(const operand *weights, const number *const *keys, int count, int rank, float *sums) {
    for (int column = 0; column < rank; column += PAIR) {
        vec own[VALUE_ROWS][2];
        for (int r = 0; r < VALUE_ROWS; r++)
            for (int i = 0; i < 2; i++) own[r][i] = FLOATS(sums + r * rank + column + i * LANES);
        for (int k = 0; k < count; k += IN_WORD) {
            vec x[2];
            load_columns(keys + k, column, x);
            for (int r = 0; r < VALUE_ROWS; r++) {
                vec weight = broadcast(weights + r * CHUNK + k);
                for (int i = 0; i < 2; i++) own[r][i] = multiply_add(weight, x[i], own[r][i]);
            }
        }
        for (int r = 0; r < VALUE_ROWS; r++)
            for (int i = 0; i < 2; i++) FLOATS(sums + r * rank + column + i * LANES) = own[r][i];
    }
}

/* One thread's buffers for a tile; see Tile of attention.c. */
typedef struct {
    operand queries[MAX_ROWS * MAX_WIDTH];
    operand weights[MAX_ROWS * CHUNK];
    float scores[MAX_ROWS * CHUNK], sums[MAX_ROWS * MAX_RANK];
    float most[MAX_ROWS], total[MAX_ROWS], added[MAX_ROWS];
} Tile;

typedef struct {
    const number *pool;
    const int32_t *blocks; /* of one sequence */
    int block_size, width, rank, heads;
    float scale;
} Latents;

/* The keys of a chunk; after the last one it again, of weight 0. */
static void find_keys(const Latents *of, int first, int count, const number **keys) {
    for (int k = 0; k < CHUNK; k++) {
        int token = first + smaller(k, count - 1);
        long slot = (long)of->blocks[token / of->block_size] * of->block_size + token % of->block_size;
        keys[k] = of->pool + slot * of->width;
    }
}

/* The rows of a tile, whose queries are in place, over the keys [begin, end); `position`: of the first rows' token. */
static void attend_tile(const Latents *of, Tile *tile, int rows, int position, int begin, int end) {
    int padded = (rows + VALUE_ROWS - 1) / VALUE_ROWS * VALUE_ROWS, width = of->width, rank = of->rank;
    for (int r = 0; r < rows; r++) {
        tile->most[r] = MINUS_INFINITY;
        tile->total[r] = 0;
    }
    memset(tile->queries + rows * width, 0, (padded - rows) * width * sizeof(operand));
    memset(tile->weights + rows * CHUNK, 0, (padded - rows) * CHUNK * sizeof(operand));
    memset(tile->sums, 0, (long)padded * rank * sizeof(float));
    for (int first = begin; first < end; first += CHUNK) {
        const number *keys[CHUNK];
        int count = smaller(CHUNK, end - first), in_lanes = (count + LANES - 1) / LANES * LANES;
        find_keys(of, first, count, keys);
        for (int k = 0; k < in_lanes; k += 4)
            for (int r = 0; r < padded; r += 4)
                score_4x4(tile->queries + r * width, keys + k, width, tile->scores + r * CHUNK + k);
        float before[MAX_ROWS];
        memcpy(before, tile->most, sizeof before);
        for (int r = 0; r < rows; r++) {
            int seen = position + r / of->heads + 1 - first; /* keys of this chunk that do not come after the query */
            tile->added[r] = soften(tile->scores + r * CHUNK, tile->weights + r * CHUNK, tile->most + r, 0,
                                    smaller(seen, count), in_lanes, of->scale);
        }
        shrink(before, tile->most, tile->added, tile->total, tile->sums, rows, rank);
        for (int r = 0; r < padded; r += VALUE_ROWS)
            add_values(tile->weights + r * CHUNK, keys, count, rank, tile->sums + r * rank);
    }
}

/* A tile's sums, and where keys are shared among tiles the largest score and the weights' sum, of each row in `parts`. */
static void hand_over(const Tile *tile, int rows, int rank, float *parts, number *out) {
    for (int r = 0; r < rows; r++) {
        vec share = all(1.0f / tile->total[r]);
        for (int i = 0; i < rank; i += PAIR) {
            vec from[2] = {FLOATS(tile->sums + r * rank + i), FLOATS(tile->sums + r * rank + i + LANES)}, own[2];
            in_order(from, own);
            for (int k = 0; k < 2; k++) {
                if (parts)
                    FLOATS(parts + (long)r * (rank + LANES) + i + k * LANES) = own[k];
                else
                    store(out + (long)r * rank + i + k * LANES, own[k] * share);
            }
        }
        if (parts) {
            parts[(long)r * (rank + LANES) + rank] = tile->most[r];
            parts[(long)r * (rank + LANES) + rank + 1] = tile->total[r];
        }
    }
}

/* One row of `out` from its parts, which are `stride` apart. */
static void merge_row(const float *parts, int num_parts, long stride, int rank, number *out) {
    float most = MINUS_INFINITY, total = 0, shares[MAX_ROWS];
    for (int p = 0; p < num_parts; p++) most = parts[p * stride + rank] > most ? parts[p * stride + rank] : most;
    for (int p = 0; p < num_parts; p++) {
        shares[p] = exponential(all(parts[p * stride + rank] - most))[0];
        if (shares[p] > 0) total += shares[p] * parts[p * stride + rank + 1];
    }
    for (int i = 0; i < rank; i += LANES) {
        vec own = all(0);
        for (int p = 0; p < num_parts; p++)
            if (shares[p] > 0) own += FLOATS(parts + p * stride + i) * shares[p];
        store(out + i, own / total);
    }
}

/* Attention of `items` tiles, as those of attend() of attention.c: queries [tokens, heads, width] over the pool, out [tokens,
 * heads, rank]. The keys of an item are shared among `num_parts` tiles, whose sums stand in `parts` [items * num_parts,
 * max_rows, rank + 16]; it may be null for one.
 */
void attend_latents(const number *queries, const number *pool, int block_size, const int32_t *tables,
                    const int32_t *item_list, int items, int heads, int width, int rank, float scale, int num_parts,
                    int max_rows, float *parts, number *out) {
    long row_size = rank + LANES, part_size = row_size * max_rows;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1)
        for (int work = 0; work < items * num_parts; work++) {
            const int32_t *item = item_list + 4 * (work / num_parts);
            int rows = item[1] * heads, num_keys = item[2] + item[1], part = work % num_parts;
            int each = (num_keys + num_parts * CHUNK - 1) / (num_parts * CHUNK) * CHUNK;
            int begin = smaller(part * each, num_keys), end = smaller(begin + each, num_keys);
            float *own_parts = num_parts == 1 ? 0 : parts + work * part_size;
            if (begin == end) {
                for (int r = 0; r < rows; r++) own_parts[r * row_size + rank] = MINUS_INFINITY;
                continue;
            }
            Latents of = {pool, tables + item[3], block_size, width, rank, heads, scale};
            Tile tile;
            const number *own = queries + (long)item[0] * heads * width;
            for (long i = 0; i < (long)rows * width; i += LANES) store_operand(tile.queries + i, load(own + i));
            attend_tile(&of, &tile, rows, item[2], begin, end);
            hand_over(&tile, rows, rank, own_parts, out + (long)item[0] * heads * rank);
        }
        if (num_parts > 1) {
#pragma omp for
            for (int work = 0; work < items * max_rows; work++) {
                const int32_t *item = item_list + 4 * (work / max_rows);
                int row = work % max_rows;
                if (row < item[1] * heads)
                    merge_row(parts + work / max_rows * num_parts * part_size + row * row_size, num_parts, part_size, rank,
                              out + ((long)item[0] * heads + row) * rank);
            }
        }
    }
}
