/* Products of inputs [rows, in] with bfloat16 weights [out, in] -> [rows, out], by instructions that multiply pairs.
 *
 * 16 outputs side by side are a panel, [in / 2, 16, 2] numbers. A tile multiplies some rows by some panels; all tiles of
 * some panels come before the next panels, which each of these tiles prefetches a part of. So memory is read while the
 * processor multiplies; a processor alone sees the next panels only when their first tile begins.
 */
#include "numbers.h"

#define PARALLEL_FROM 65536 /* products; with fewer, waking another thread costs more than it saves */

/* Weights [out, in] as they are, of fewer outputs than a panel has; `num_in` is a multiple of 16, the bias may be null. */
void multiply_narrow(const number *weights, const number *bias, const number *inputs, int rows, int num_in, int num_out,
                     number *out) {
#pragma omp parallel for if ((long)rows * num_in * num_out >= PARALLEL_FROM)
    for (int at = 0; at < rows * num_out; at++) {
        const number *x = inputs + (long)(at / num_out) * num_in, *w = weights + (long)(at % num_out) * num_in;
        number own[LANES];
        vec total = all(0);
        for (int i = 0; i < num_in; i += LANES) total += load(x + i) * load(w + i);
        store(own, all(sum(total) + (bias ? one(bias + at % num_out) : 0)));
        out[at] = own[0];
    }
}

#if IN_WORD == 2
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define MAX_M 6 /* rows of a tile */
#define MAX_N 4 /* panels of a tile */
#define MAX_PARTS 6

typedef struct {
    const number *weights, *bias, *inputs;
    number *out;
    int rows, num_in, num_out;
} Product;

/* sums += products of pairs. The intrinsic makes GCC copy `sums` each time. */
INLINE void add_pairs(vec *sums, __m512i numbers, __m512i inputs) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(*sums) : "v"(numbers), "v"(inputs));
}

INLINE __m512i pair(const number *inputs) {
    int32_t both;
    memcpy(&both, inputs, sizeof both);
    return _mm512_set1_epi32(both);
}

INLINE void finish(const Product *of, int row, int panel, vec sums) {
    if (of->bias) sums += load(of->bias + panel * LANES);
    store(of->out + (long)row * of->num_out + panel * LANES, sums);
}

/* Outputs of one row, of one panel: several sums, or each product would wait for the one before. */
INLINE void multiply_row(const Product *of, int panel) {
    const number *numbers = of->weights + (long)panel * of->num_in * LANES, *next = numbers + (long)of->num_in * LANES;
    vec sums[4] = {all(0), all(0), all(0), all(0)};
    for (int k = 0; k < of->num_in; k += 16) UNROLL for (int j = 0; j < 16; j += 2) {
        long at = (long)(k + j) * LANES;
        __builtin_prefetch(next + at);
        add_pairs(&sums[j / 2 % 4], _mm512_loadu_si512(numbers + at), pair(of->inputs + k + j));
    }
    finish(of, 0, panel, sums[0] + sums[1] + sums[2] + sums[3]);
}

/* Outputs of `m` rows from `row` on, of the `n` panels; prefetches one of `parts` parts of as many panels that follow. */
INLINE void multiply_tile(int m, int n, const Product *of, int row, const int *panels, int part, int parts) {
    const int width = of->num_in;
    const number *inputs = of->inputs + (long)row * width, *numbers[MAX_N];
    vec sums[MAX_M][MAX_N];
    UNROLL for (int p = 0; p < n; p++) {
        numbers[p] = of->weights + (long)panels[p] * width * LANES;
        UNROLL for (int r = 0; r < m; r++) sums[r][p] = all(0);
    }
    for (int k = 0, turn = 0; k < width; k += 8, turn = turn + 1 == parts ? 0 : turn + 1)
        UNROLL for (int j = 0; j < 8; j += 2) {
            __m512i own[MAX_N];
            UNROLL for (int p = 0; p < n; p++) {
                const number *at = numbers[p] + (long)(k + j) * LANES;
                own[p] = _mm512_loadu_si512(at);
                if (turn == part) __builtin_prefetch(at + (long)n * width * LANES);
            }
            UNROLL for (int r = 0; r < m; r++) {
                __m512i x = pair(inputs + (long)r * width + k + j);
                UNROLL for (int p = 0; p < n; p++) add_pairs(&sums[r][p], own[p], x);
            }
        }
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int p = 0; p < n; p++) finish(of, row + r, panels[p], sums[r][p]);
}

static void multiply_rows(const Product *of, const int *panels) {
    if (of->rows == 1) {
        for (int p = 0; p < MAX_N; p++) multiply_row(of, panels[p]);
        return;
    }
    int row = 0, part = 0, parts = smaller((of->rows + MAX_M - 1) / MAX_M, MAX_PARTS);
    for (; row + 6 <= of->rows; row += 6) multiply_tile(6, MAX_N, of, row, panels, part++, parts);
    for (; row + 4 <= of->rows; row += 4) multiply_tile(4, MAX_N, of, row, panels, part++, parts);
    for (; row + 2 <= of->rows; row += 2) multiply_tile(2, MAX_N, of, row, panels, part++, parts);
    for (; row < of->rows; row++) multiply_tile(1, MAX_N, of, row, panels, part++, parts);
}

/* Widths are multiples of 16; the bias [out] may be null. */
void multiply_dense(const number *weights, const number *bias, const number *inputs, int rows, int num_in, int num_out,
                    number *out) {
    const Product of = {weights, bias, inputs, out, rows, num_in, num_out};
    const int last = num_out / LANES - 1;
#pragma omp parallel for if ((long)rows * num_in * num_out >= PARALLEL_FROM)
    for (int first = 0; first <= last; first += MAX_N) {
        int panels[MAX_N];
        for (int p = 0; p < MAX_N; p++) panels[p] = smaller(first + p, last); /* the last one is computed again */
        multiply_rows(&of, panels);
    }
}

int can_multiply_pairs(void) { return 1; }
#else
void multiply_dense(const number *weights, const number *bias, const number *inputs, int rows, int num_in, int num_out,
                    number *out) {}

int can_multiply_pairs(void) { return 0; }
#endif
