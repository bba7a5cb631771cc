/* What attention over keys and values has in common with attention over latents: operands of products, and a softmax over
 * one chunk of keys after the other.
 */
#include "numbers.h"

#define MINUS_INFINITY (-__builtin_inff())
#define GROUPS 4 /* of 16 keys each, which a tile reads together: a chunk */
#define CHUNK (GROUPS * LANES)

/* The type of queries and weights in the products: as wide as the words of the pool. */
#if IN_WORD == 2
typedef number operand;

static inline vec load_words(const number *from) { return FLOATS(from); } /* 16 of them */

static inline vec multiply_add(vec a, vec b, vec sum) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

static inline void store_operand(operand *to, vec x) { store(to, x); }
#else
typedef float operand;

static inline vec load_words(const number *from) { return load(from); }

static inline vec multiply_add(vec a, vec b, vec sum) { return a * b + sum; }

static inline void store_operand(operand *to, vec x) { FLOATS(to) = x; }
#endif

static inline vec broadcast(const operand *word) {
    float x;
    memcpy(&x, word, sizeof x);
    return all(x);
}

/* Turns the scores of one row, times `scale`, into weights relative to the row's largest score so far; returns their sum.
 * Only keys in [from, to) count.
 */
static inline float soften(float *scores, operand *weights, float *row_most, int from, int to, int width, float scale) {
    const bits lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec most = all(*row_most);
    for (int i = 0; i < width; i += LANES) {
        vec x = FLOATS(scores + i) * scale;
        if (i < from || i + LANES > to) {
            int first = from > i ? from - i : 0, last = to > i ? to - i : 0;
            bits is_seen = (bits)(lane >= (uint32_t)first) & (bits)(lane < (uint32_t)last);
            x = choose(is_seen, x, all(MINUS_INFINITY));
        }
        FLOATS(scores + i) = x;
        most = larger(x, most);
    }
    float top = largest(most);
    vec added = all(0);
    if (top == MINUS_INFINITY) /* no key counted yet */
        memset(weights, 0, width * sizeof(operand));
    else
        for (int i = 0; i < width; i += LANES) {
            vec x = exponential(FLOATS(scores + i) - top);
            added += x;
            store_operand(weights + i, x);
        }
    *row_most = top;
    return sum(added);
}

/* Rescales the sums [rows, dim] and `total`, the sums of the rows' weights, from the largest scores `before` this chunk to
 * the new largest ones, `most`; the weights of this chunk are `added` to the total. All have room for a multiple of 16 rows.
 */
static inline void shrink(const float *before, const float *most, const float *added, float *total, float *sums, int rows,
                          int dim) {
    for (int first = 0; first < rows; first += LANES) {
        vec old = FLOATS(before + first), new = FLOATS(most + first);
        vec by = choose((bits)(old == new), all(1), exponential(old - new));
        FLOATS(total + first) = FLOATS(total + first) * by + FLOATS(added + first);
        for (int r = first; r < smaller(first + LANES, rows); r++)
            if (by[r - first] != 1.0f)
                for (int i = 0; i < dim; i += LANES) FLOATS(sums + (long)r * dim + i) *= by[r - first];
    }
}
