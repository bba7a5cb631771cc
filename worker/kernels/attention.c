/* Attention over the paged KV cache: every sequence over its own blocks, in tiles of queries and chunks of keys. */
#include "softmax.h"

int omp_get_num_threads(void);

#define MAX_ROWS 64  /* query rows of one tile: queries times the heads that share a KV head */
#define MAX_DIM 256  /* of a head */

/* The groups of a chunk and of the next one (after a tile's last chunk, of the next tile). The next ones are prefetched
 * by hand, because a processor cannot predict where a block table points.
 */
typedef struct {
    const number *at[GROUPS], *next[GROUPS];
} Groups;

/* Scores [4, CHUNK] of 4 queries [4, dim]. */
static inline void score_4(const operand *queries, const Groups *keys, int ask, int dim, float *scores) {
    vec sums[4][GROUPS];
    for (int r = 0; r < 4; r++)
        for (int g = 0; g < GROUPS; g++) sums[r][g] = all(0);
    for (int d = 0; d < dim; d += IN_WORD) {
        vec words[GROUPS];
        for (int g = 0; g < GROUPS; g++) {
            words[g] = load_words(keys->at[g] + d * LANES);
            if (ask) __builtin_prefetch(keys->next[g] + d * LANES);
        }
        for (int r = 0; r < 4; r++) {
            vec x = broadcast(queries + r * dim + d);
            for (int g = 0; g < GROUPS; g++) sums[r][g] = multiply_add(x, words[g], sums[r][g]);
        }
    }
    for (int r = 0; r < 4; r++)
        for (int g = 0; g < GROUPS; g++) FLOATS(scores + r * CHUNK + g * LANES) = sums[r][g];
}

/* sums [4, dim] += weights [4, CHUNK] times the first `count` values [count, dim], for `num` times 16 columns. */
static inline __attribute__((always_inline)) void add_columns(const operand *weights, const Groups *values, int ask,
                                                              int count, int dim, int column, int num, float *sums) {
    vec own[4][4];
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < num; i++) own[r][i] = FLOATS(sums + r * dim + column + i * LANES);
    for (int k = 0; k < count; k += IN_WORD) {
        long at = k % LANES * dim + column * IN_WORD;
        vec words[4];
        for (int i = 0; i < num; i++) {
            words[i] = load_words(values->at[k / LANES] + at + i * LANES * IN_WORD);
            if (ask) __builtin_prefetch(values->next[k / LANES] + at + i * LANES * IN_WORD);
        }
        for (int r = 0; r < 4; r++) {
            vec x = broadcast(weights + r * CHUNK + k);
            for (int i = 0; i < num; i++) own[r][i] = multiply_add(x, words[i], own[r][i]);
        }
    }
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < num; i++) FLOATS(sums + r * dim + column + i * LANES) = own[r][i];
}

static void add_values_4(const operand *weights, const Groups *values, int ask, int count, int dim, float *sums) {
    int column = 0;
    for (; column + 4 * LANES <= dim; column += 4 * LANES)
        add_columns(weights, values, ask, count, dim, column, 4, sums);
    for (; column + 2 * LANES <= dim; column += 2 * LANES)
        add_columns(weights, values, ask, count, dim, column, 2, sums);
}

/* One thread's buffers for a tile. */
typedef struct {
    operand queries[MAX_ROWS * MAX_DIM];
    operand weights[MAX_ROWS * CHUNK];
    float scores[MAX_ROWS * CHUNK];
    float sums[MAX_ROWS * MAX_DIM]; /* weighted values so far, [rows, dim] */
    float most[MAX_ROWS], total[MAX_ROWS], added[MAX_ROWS];
} Tile;

/* The cache of a layer; `window` is how far back a token attends. */
typedef struct {
    const number *keys, *values;
    long num_slots;
    int block_size, dim, window;
    const int32_t *tables;
} Pools;

/* The keys and values of a tile: one head of the pools, and the blocks of one sequence. */
typedef struct {
    const number *keys, *values;
    const int32_t *blocks;
    int block_size, dim;
    int begin, num_keys; /* the queries attend to the sequence's tokens [begin, num_keys) */
} Place;

static inline Place place_of(const Pools *pools, const int32_t *item, int head) {
    long at = head * pools->num_slots * pools->dim;
    int unseen = pools->window ? item[2] + 1 - pools->window : 0; /* tokens before the window of the first query */
    return (Place){
        .keys = pools->keys + at,
        .values = pools->values + at,
        .blocks = pools->tables + item[3],
        .block_size = pools->block_size,
        .dim = pools->dim,
        .begin = unseen > 0 ? unseen / LANES * LANES : 0,
        .num_keys = item[2] + item[1],
    };
}

/* The GROUPS groups from token `first` on; the last group is repeated where the sequence ends. */
static inline void find_groups(const Place *place, int first, const number **keys, const number **values) {
    for (int g = 0; g < GROUPS; g++) {
        int token = smaller(first + g * LANES, (place->num_keys - 1) / LANES * LANES);
        long row = (long)place->blocks[token / place->block_size] * place->block_size + token % place->block_size;
        keys[g] = place->keys + row * place->dim;
        values[g] = place->values + row * place->dim;
    }
}

/* Attention of `items` tiles, each some queries of one sequence, for every KV head.
 *
 * qkv [tokens, heads + 2 * kv_heads, dim] holds rotated queries; pools as in numbers.h; out [tokens, heads, dim]. An item is
 * four numbers: its first token, the number of tokens, the position of the first one, and the index in `tables` where its
 * block table begins. `window` is the number of tokens that a query attends to, itself included; 0: all. `sinks` [heads]
 * are scores that take a share of the weights and add no value, or null.
 */
void attend(const number *qkv, const number *keys, const number *values, long num_slots, int block_size,
            const int32_t *tables, const int32_t *item_list, int items, int heads, int kv_heads, int dim, float scale,
            int window, const float *sinks, number *out) {
    int shared = heads / kv_heads;
    long stride = (long)(heads + 2 * kv_heads) * dim;
    Pools pools = {keys, values, num_slots, block_size, dim, window, tables};
#pragma omp parallel for schedule(dynamic, 1) if (items > 1 || item_list[2] > 64)
    for (int work = 0; work < items * kv_heads; work++) {
        const int32_t *item = item_list + 4 * (work / kv_heads);
        int head = work % kv_heads, first_token = item[0], queries = item[1], position = item[2];
        int rows = queries * shared, padded = (rows + 3) / 4 * 4;
        int next = smaller(work + omp_get_num_threads(), items * kv_heads - 1); /* probably this thread's next item */
        Place place = place_of(&pools, item, head);
        Place next_place = place_of(&pools, item_list + 4 * (next / kv_heads), next % kv_heads);
        int num_keys = place.num_keys;
        Groups key_groups, value_groups;
        find_groups(&place, place.begin, key_groups.next, value_groups.next);
        Tile tile;
        for (int r = 0; r < rows; r++) {
            const number *query = qkv + (first_token + r / shared) * stride + (head * shared + r % shared) * dim;
            for (int i = 0; i < dim; i += LANES) store_operand(tile.queries + r * dim + i, load(query + i));
            tile.most[r] = sinks ? sinks[head * shared + r % shared] : MINUS_INFINITY;
            tile.total[r] = sinks ? 1 : 0;
        }
        memset(tile.queries + rows * dim, 0, (padded - rows) * dim * sizeof(operand));
        memset(tile.weights + rows * CHUNK, 0, (padded - rows) * CHUNK * sizeof(operand));
        memset(tile.sums, 0, padded * dim * sizeof(float));
        for (int first = place.begin; first < num_keys; first += CHUNK) {
            int count = smaller(CHUNK, num_keys - first), width = (count + LANES - 1) / LANES * LANES;
            memcpy(key_groups.at, key_groups.next, sizeof key_groups.at);
            memcpy(value_groups.at, value_groups.next, sizeof value_groups.at);
            if (first + CHUNK < num_keys)
                find_groups(&place, first + CHUNK, key_groups.next, value_groups.next);
            else
                find_groups(&next_place, next_place.begin, key_groups.next, value_groups.next);
            for (int r = 0; r < rows; r += 4)
                score_4(tile.queries + r * dim, &key_groups, r == 0, dim, tile.scores + r * CHUNK);
            float before[MAX_ROWS];
            memcpy(before, tile.most, sizeof before);
            for (int r = 0; r < rows; r++) {
                int seen = position + r / shared + 1 - first; /* keys of this chunk that do not come after the query */
                int from = window ? seen - window : 0;
                tile.added[r] = soften(tile.scores + r * CHUNK, tile.weights + r * CHUNK, tile.most + r, from > 0 ? from : 0,
                                       smaller(seen, count), width, scale);
            }
            shrink(before, tile.most, tile.added, tile.total, tile.sums, rows, dim);
            for (int r = 0; r < rows; r += 4)
                add_values_4(tile.weights + r * CHUNK, &value_groups, r == 0, count, dim, tile.sums + r * dim);
        }
        for (int r = 0; r < rows; r++) {
            number *to = out + ((long)(first_token + r / shared) * heads + head * shared + r % shared) * dim;
            vec share = all(1.0f / tile.total[r]);
            for (int i = 0; i < dim; i += LANES) store(to + i, FLOATS(tile.sums + r * dim + i) * share);
        }
    }
}
