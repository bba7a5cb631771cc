/* The choice of experts for each token, and the weights of those that are chosen. Widths are multiples of 16. */
#include "numbers.h"

static inline float dot_floats(const number *x, const float *w, int width) {
    vec total = all(0);
    for (int i = 0; i < width; i += LANES) total += load(x + i) * FLOATS(w + i);
    return sum(total);
}

static inline float dot_numbers(const number *x, const number *w, int width) {
    vec total = all(0);
    for (int i = 0; i < width; i += LANES) total += load(x + i) * load(w + i);
    return sum(total);
}

static inline float as_number(float x) { /* rounded as a product in the model's dtype is */
    number rounded[LANES];
    store(rounded, all(x));
    return load(rounded)[0];
}

static inline float exponential_of(float x) { return exponential(all(x))[0]; }

/* Logits become scores in place: each a sigmoid, or all of them a softmax. */
static void score(float *logits, int experts, int by_sigmoid) {
    if (by_sigmoid) {
        for (int e = 0; e < experts; e++) logits[e] = 1.0f / (1.0f + exponential_of(-logits[e]));
        return;
    }
    float most = logits[0], total = 0;
    for (int e = 1; e < experts; e++) most = logits[e] > most ? logits[e] : most;
    for (int e = 0; e < experts; e++) total += logits[e] = exponential_of(logits[e] - most);
    for (int e = 0; e < experts; e++) logits[e] /= total;
}

/* The best expert that is not among the first `num_chosen`; the first of equal ones, or of such as are no numbers. */
static int best_of(const float *scores, const float *correction, int experts, const int64_t *chosen, int num_chosen) {
    int best = -1;
    float most = 0;
    for (int e = 0; e < experts; e++) {
        float preferred = scores[e] + (correction ? correction[e] : 0);
        if (best >= 0 && !(preferred > most)) continue;
        int is_taken = 0;
        for (int i = 0; i < num_chosen; i++) is_taken |= chosen[i] == e;
        if (is_taken) continue;
        best = e;
        most = preferred;
    }
    return best;
}

/* hidden [tokens, width]; weight [experts, width], of floats or numbers; bias and correction [experts] or null; `logits`
 * [tokens, experts] is overwritten -> chosen, weights [tokens, top_k], the best first. The correction counts for the
 * choice alone.
 */
void route(const number *hidden, const void *weight, const float *bias, const float *correction, float *logits,
           int64_t *chosen, float *weights, int tokens, int width, int experts, int top_k, int has_floats, int by_sigmoid,
           int renormalizes, float scaling, float least_sum) {
#pragma omp parallel if ((long)tokens * experts * width >= 1 << 16)
    {
#pragma omp for
        for (int work = 0; work < tokens * experts; work++) {
            const int token = work % tokens, e = work / tokens; /* a thread reads its experts once */
            const number *x = hidden + (long)token * width;
            float found = has_floats ? dot_floats(x, (const float *)weight + (long)e * width, width)
                                     : dot_numbers(x, (const number *)weight + (long)e * width, width);
            if (bias) found += bias[e];
            logits[(long)token * experts + e] = has_floats ? found : as_number(found);
        }
#pragma omp for
        for (int token = 0; token < tokens; token++) {
            float *scores = logits + (long)token * experts, *own = weights + (long)token * top_k, total = least_sum;
            int64_t *places = chosen + (long)token * top_k;
            score(scores, experts, by_sigmoid);
            for (int i = 0; i < top_k; i++) {
                places[i] = best_of(scores, correction, experts, places, i);
                total += own[i] = scores[places[i]];
            }
            for (int i = 0; i < top_k; i++) own[i] *= renormalizes ? scaling / total : scaling;
        }
    }
}
