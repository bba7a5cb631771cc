/* Norms, SwiGLU and rotary positions. Widths are multiples of 16. */
#include "numbers.h"

#define PARALLEL_FROM 32768 /* with fewer numbers, waking another thread costs more than it saves */

/* hidden += change; out = norm(hidden) * weight; all [tokens, width]. `change` may be null. */
void add_norm(number *hidden, const number *change, const number *weight, number *out, int tokens, int width, float eps) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        number *own = hidden + (long)t * width, *result = out + (long)t * width;
        if (change)
            for (int i = 0; i < width; i += LANES) store(own + i, load(own + i) + load(change + (long)t * width + i));
        normalize(own, weight, result, width, eps);
    }
}

/* out += shared, each row times the sigmoid of its gate; both [tokens, width]. `gates` [tokens] may be null. */
void add_shared(number *out, const number *shared, const number *gates, int tokens, int width) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        number *own = out + (long)t * width;
        vec weight = gates ? 1.0f / (1.0f + exponential(all(-one(gates + t)))) : all(1);
        for (int i = 0; i < width; i += LANES) store(own + i, load(own + i) + load(shared + (long)t * width + i) * weight);
    }
}

/* out = silu(gate) * up; gate_up [tokens, 2 * width], out [tokens, width]. */
void swiglu(const number *gate_up, number *out, int tokens, int width) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        const number *gate = gate_up + 2L * t * width, *up = gate + width;
        for (int i = 0; i < width; i += LANES) {
            vec x = load(gate + i);
            store(out + (long)t * width + i, divide(x, 1.0f + exponential(-x)) * load(up + i));
        }
    }
}

/* Rotates the first `rotated` numbers of one head in place; with `norm` weights, normalizes all of it first. */
static void rotate(number *x, const number *cos, const number *sin, const number *norm, float eps, int rotated, int dim) {
    vec scale = all(norm ? inverse_rms(x, dim, eps) : 1.0f);
    for (int i = 0, j = rotated / 2; i < rotated / 2; i += LANES, j += LANES) {
        vec a = load(x + i) * scale, b = load(x + j) * scale;
        if (norm) {
            a *= load(norm + i);
            b *= load(norm + j);
        }
        store(x + i, a * load(cos + i) - b * load(sin + i));
        store(x + j, b * load(cos + j) + a * load(sin + j));
    }
    if (norm)
        for (int i = rotated; i < dim; i += LANES) store(x + i, load(x + i) * scale * load(norm + i));
}

/* Writes a token's key and value to its place in their group. */
static void write_pair(const number *key, const number *value, number *keys, number *values, int place, int dim) {
    for (int d = 0; d < dim; d += IN_WORD)
        memcpy(keys + d * LANES + place * IN_WORD, key + d, IN_WORD * sizeof(number));
    number *to = values + place / IN_WORD * IN_WORD * dim + place % IN_WORD;
    for (int d = 0; d < dim; d++) to[d * IN_WORD] = value[d];
}

/* Zeroes the rest of the word that a sequence's last value begins: a weight of zero times garbage could be NaN. */
static void clear_rest(number *values, int place, int dim) {
    number *to = values + place * dim;
    for (int d = 0; d < dim; d++)
        for (int i = 1; i < IN_WORD; i++) to[d * IN_WORD + i] = 0;
}

/* Prefetches the memory that write_pair will write. */
static void prefetch_pair(const number *keys, const number *values, int place, int dim) {
    for (int d = 0; d < dim; d += IN_WORD) __builtin_prefetch(keys + d * LANES + place * IN_WORD, 1);
    for (int d = 0; d < dim * IN_WORD; d += 64 / (int)sizeof(number))
        __builtin_prefetch(values + place / IN_WORD * IN_WORD * dim + d, 1);
}

/* Rotates the queries and keys of qkv [tokens, heads + 2 * kv_heads, dim] in place; writes keys and values to the pools.
 * Pools are [kv_heads, num_slots / 16] groups; slots [tokens]; cos and sin [tokens, rotated], a multiple of
 * 32; the norms [dim] or null.
 */
void rotate_and_write(number *qkv, const number *cos, const number *sin, const number *query_norm, const number *key_norm,
                      float eps, const int64_t *slots, number *keys, number *values, long num_slots, int tokens, int heads,
                      int kv_heads, int rotated, int dim) {
#pragma omp parallel for if ((long)tokens * (heads + kv_heads) * dim >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        number *own = qkv + (long)t * (heads + 2 * kv_heads) * dim;
        const number *c = cos + (long)t * rotated, *s = sin + (long)t * rotated;
        int place = slots[t] % LANES;
        for (int h = 0; h < kv_heads; h++) {
            long group = (h * num_slots + slots[t] - place) * dim;
            prefetch_pair(keys + group, values + group, place, dim);
        }
        for (int h = 0; h < heads; h++) rotate(own + h * dim, c, s, query_norm, eps, rotated, dim);
        int is_last = t + 1 == tokens || slots[t + 1] != slots[t] + 1; /* else the next token fills the word */
        for (int h = 0; h < kv_heads; h++) {
            long group = (h * num_slots + slots[t] - place) * dim;
            number *key = own + (heads + h) * dim;
            rotate(key, c, s, key_norm, eps, rotated, dim);
            write_pair(key, own + (heads + kv_heads + h) * dim, keys + group, values + group, place, dim);
            if (is_last && place % IN_WORD == 0) clear_rest(values + group, place, dim);
        }
    }
}
