/* Products of each head's inputs with weights of its own: [heads, out / 16, in / IN_WORD, 16, IN_WORD] numbers, widths that
 * are multiples of 16. 16 outputs side by side are a panel.
 */
#include "softmax.h"

#define MAX_N 4             /* panels of a tile */
#define PARALLEL_FROM 65536 /* products; with fewer, waking another thread costs more than it saves */

static inline vec spread(const number *word) {
#if defined(BF16) && IN_WORD == 1
    return all(one(word));
#else
    float x;
    memcpy(&x, word, sizeof x);
    return all(x);
#endif
}

/* `m` rows by MAX_N panels. */
static inline __attribute__((always_inline)) void multiply_rows(int m, const number *const *panels, const number *inputs,
                                                               long in_stride, int num_in, number *const *outs,
                                                               long out_stride) {
    vec own[4][MAX_N];
    for (int r = 0; r < m; r++)
        for (int p = 0; p < MAX_N; p++) own[r][p] = all(0);
    for (int i = 0; i < num_in; i += IN_WORD) {
        vec words[MAX_N];
        for (int p = 0; p < MAX_N; p++) words[p] = load_words(panels[p] + (long)i * LANES);
        for (int r = 0; r < m; r++) {
            vec x = spread(inputs + r * in_stride + i);
            for (int p = 0; p < MAX_N; p++) own[r][p] = multiply_add(x, words[p], own[r][p]);
        }
    }
    for (int r = 0; r < m; r++)
        for (int p = 0; p < MAX_N; p++) store(outs[p] + r * out_stride, own[r][p]);
}

/* Inputs and outputs of neighbouring rows, and of neighbouring heads, are so far apart. */
void multiply_heads(const number *weights, const number *inputs, long in_stride, long head_in_stride, number *out,
                    long out_stride, long head_out_stride, int rows, int heads, int num_in, int num_out) {
    int num_panels = num_out / LANES, groups = (num_panels + MAX_N - 1) / MAX_N;
#pragma omp parallel for if ((long)rows * heads * num_in * num_out >= PARALLEL_FROM)
    for (int work = 0; work < heads * groups; work++) {
        int head = work / groups, first = work % groups * MAX_N, r = 0;
        const number *panels[MAX_N], *x = inputs + head * head_in_stride;
        number *outs[MAX_N];
        for (int p = 0; p < MAX_N; p++) {
            int panel = smaller(first + p, num_panels - 1); /* the last one is computed again */
            panels[p] = weights + ((long)head * num_panels + panel) * num_in * LANES;
            outs[p] = out + head * head_out_stride + panel * LANES;
        }
        for (; r + 4 <= rows; r += 4) {
            number *own[MAX_N] = {outs[0] + r * out_stride, outs[1] + r * out_stride, outs[2] + r * out_stride,
                                  outs[3] + r * out_stride};
            multiply_rows(4, panels, x + r * in_stride, in_stride, num_in, own, out_stride);
        }
        for (; r < rows; r++) {
            number *own[MAX_N] = {outs[0] + r * out_stride, outs[1] + r * out_stride, outs[2] + r * out_stride,
                                  outs[3] + r * out_stride};
            multiply_rows(1, panels, x + r * in_stride, in_stride, num_in, own, out_stride);
        }
    }
}
