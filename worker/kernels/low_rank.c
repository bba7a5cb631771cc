/* Changes of linear layers by low-rank adapters, for the tokens of each adapter: outputs += (inputs . down) . up.
 *
 * Weights are stored in the order in which they are read. A word is two numbers where the processor multiplies pairs of
 * bfloat16, else one; ranks are padded with zeros to multiples of ROWS:
 *   down [rank / ROWS, in / STEP, ROWS, STEP]   STEP: numbers of a vector of words
 *   up   [width / COLUMNS, rank / IN_WORD, COLUMNS, IN_WORD], of which the last tile may have fewer columns
 */
#include "numbers.h"
#ifdef _OPENMP
#include <omp.h>
#endif

#define ROWS 4     /* of `down` at a time */
#define TOKENS 4   /* at a time */
#define COLUMNS 64 /* outputs at a time */
#define STEP (LANES * IN_WORD)
#define AHEAD (32 * STEP) /* weights that are fetched beforehand: 2 KiB */
#define PARALLEL_FROM (1L << 18) /* multiplications; with fewer, waking another thread costs more than it saves */

const int in_word = IN_WORD; /* for who prepares the weights */

typedef struct {
    const number *down, *up;
    int64_t rank, start, width; /* of the outputs that it changes */
} Part;

typedef struct {
    int64_t slot, stop; /* the end of its tokens */
} Group;

/* A vector of words, and sum + a * b of its numbers. */
#if IN_WORD == 2
typedef __m512i words;
static inline words load_words(const number *from) { return _mm512_loadu_si512(from); }
static inline words same_words(const number *from) { return _mm512_set1_epi32(*(const int *)from); }
static inline vec add_products(vec sum, words a, words b) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
typedef vec words;
static inline words load_words(const number *from) { return load(from); }
static inline words same_words(const number *from) {
#ifdef BF16
    uint32_t raw = (uint32_t)*from << 16;
    float x;
    memcpy(&x, &raw, sizeof x);
    return all(x);
#else
    return all(*from);
#endif
}
static inline vec add_products(vec sum, words a, words b) { return sum + a * b; }
#endif

static inline void store_one(number *to, float x) {
    number rounded[LANES];
    store(rounded, all(x));
    *to = rounded[0];
}

/* to[t][k] = inputs[t] . down[k], for `count` tokens and ROWS rows. */
static inline void shrink(const number *const *inputs, int count, const number *down, long num_in, number *to, long stride) {
    vec sums[TOKENS][ROWS];
    for (int t = 0; t < count; t++)
        for (int k = 0; k < ROWS; k++) sums[t][k] = all(0);
    for (long i = 0; i < num_in; i += STEP, down += ROWS * STEP) {
        for (int k = 0; k < ROWS; k++) __builtin_prefetch(down + k * STEP + AHEAD);
        for (int t = 0; t < count; t++) {
            words x = load_words(inputs[t] + i);
            for (int k = 0; k < ROWS; k++) sums[t][k] = add_products(sums[t][k], x, load_words(down + k * STEP));
        }
    }
    for (int t = 0; t < count; t++)
        for (int k = 0; k < ROWS; k++) store_one(to + t * stride + k, sum(sums[t][k]));
}

/* outputs[t][columns] += from[t] . up[:, columns], for `count` tokens. */
static inline void expand(number *const *outputs, int count, const number *up, int num_vectors, long rank,
                          const number *from, long stride) {
    vec sums[TOKENS][COLUMNS / LANES];
    for (int t = 0; t < count; t++)
        for (int v = 0; v < num_vectors; v++) sums[t][v] = load(outputs[t] + v * LANES);
    for (long k = 0; k < rank; k += IN_WORD, up += num_vectors * STEP) {
        for (int v = 0; v < num_vectors; v++) __builtin_prefetch(up + v * STEP + AHEAD);
        for (int t = 0; t < count; t++) {
            words x = same_words(from + t * stride + k);
            for (int v = 0; v < num_vectors; v++) sums[t][v] = add_products(sums[t][v], x, load_words(up + v * STEP));
        }
    }
    for (int t = 0; t < count; t++)
        for (int v = 0; v < num_vectors; v++) store(outputs[t] + v * LANES, sums[t][v]);
}

/* The compiler keeps the sums in registers where the numbers of loops are constants. */
static void shrink_tile(const number *const *own, int count, const number *down, long num_in, number *to, long stride) {
    if (count == 4) shrink(own, 4, down, num_in, to, stride);
    else if (count == 3) shrink(own, 3, down, num_in, to, stride);
    else if (count == 2) shrink(own, 2, down, num_in, to, stride);
    else shrink(own, 1, down, num_in, to, stride);
}

static void expand_tile(number *const *own, int count, const number *up, int num_vectors, long rank, const number *from,
                        long stride) {
    if (num_vectors < COLUMNS / LANES) expand(own, count, up, num_vectors, rank, from, stride);
    else if (count == 4) expand(own, 4, up, COLUMNS / LANES, rank, from, stride);
    else if (count == 3) expand(own, 3, up, COLUMNS / LANES, rank, from, stride);
    else if (count == 2) expand(own, 2, up, COLUMNS / LANES, rank, from, stride);
    else expand(own, 1, up, COLUMNS / LANES, rank, from, stride);
}

/* One tile of a part for all tokens of a group: ROWS rows of `down`, or COLUMNS columns of `up`, from `at` on. */
static void compute_tile(const Part *part, int is_up, long at, const number *inputs, long num_in, number *outputs,
                         long out_stride, const int32_t *tokens, long num_tokens, number *work, long stride) {
    int num_vectors = smaller(COLUMNS, part->width - at) / LANES;
    for (long t = 0; t < num_tokens; t += TOKENS, work += TOKENS * stride) {
        int count = smaller(TOKENS, num_tokens - t);
        if (is_up) {
            number *own[TOKENS];
            for (int i = 0; i < count; i++) own[i] = outputs + tokens[t + i] * out_stride + part->start + at;
            expand_tile(own, count, part->up + at * part->rank, num_vectors, part->rank, work, stride);
        } else {
            const number *own[TOKENS];
            for (int i = 0; i < count; i++) own[i] = inputs + tokens[t + i] * num_in;
            shrink_tile(own, count, part->down + at * num_in, num_in, work + at, stride);
        }
    }
}

/* Adds to `outputs` what the tokens' adapters make of `inputs` [.., in].
 * parts [slots, num_parts], those of rank 0 unused; tokens: row numbers, group by group; work [tokens, stride] numbers, of
 * which a token's parts use `rank` each, side by side.
 */
void add_low_rank(const number *inputs, long num_in, number *outputs, long out_stride, const Part *parts, int num_slots,
                  int num_parts, const Group *groups, int num_groups, const int32_t *tokens, number *work, int stride) {
    long all_tokens = num_groups ? groups[num_groups - 1].stop : 0;
#pragma omp parallel if (all_tokens * stride * num_in >= PARALLEL_FROM)
    for (int is_up = 0; is_up < 2; is_up++) {
        long task = 0; /* every thread counts them all and computes its own */
#ifdef _OPENMP
        int thread = omp_get_thread_num(), num_threads = omp_get_num_threads();
#else
        int thread = 0, num_threads = 1;
#endif
        for (int g = 0; g < num_groups; g++) {
            long first = g ? groups[g - 1].stop : 0, place = 0;
            if (groups[g].slot >= num_slots) continue;
            for (int p = 0; p < num_parts; p++) {
                const Part *part = parts + groups[g].slot * num_parts + p;
                long end = is_up && part->rank ? part->width : part->rank;
                for (long at = 0; at < end; at += is_up ? COLUMNS : ROWS)
                    if (task++ % num_threads == thread)
                        compute_tile(part, is_up, at, inputs, num_in, outputs, out_stride, tokens + first,
                                     groups[g].stop - first, work + first * stride + place, stride);
                place += part->rank;
            }
        }
#pragma omp barrier
    }
}
