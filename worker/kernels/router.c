/* The choice of experts for each token, and the weights of those that are chosen. Widths are multiples of 16. */
#include "numbers.h"

#define MAX_GROUPS 64

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

/* A choice among experts, of neighbouring ones in `groups`; the correction [experts] may be null. */
typedef struct {
    const float *scores, *correction;
    int experts, groups;
    uint64_t open; /* the groups that experts are chosen of, a bit each */
} Choice;

static inline float preferred(const Choice *of, int e) { return of->scores[e] + (of->correction ? of->correction[e] : 0); }

/* The best expert that is not among the first `num_chosen`; the first of equal ones, or of such as are no numbers. */
static int best_of(const Choice *of, const int64_t *chosen, int num_chosen) {
    int best = -1;
    float most = 0;
    for (int e = 0; e < of->experts; e++) {
        if ((best >= 0 && !(preferred(of, e) > most)) || !(of->open >> (e / (of->experts / of->groups)) & 1)) continue;
        int is_taken = 0;
        for (int i = 0; i < num_chosen; i++) is_taken |= chosen[i] == e;
        if (is_taken) continue;
        best = e;
        most = preferred(of, e);
    }
    return best;
}

/* The sum of the best `num_best` experts of a group, 1 or 2. */
static float score_of_group(const Choice *of, int group, int num_best) {
    const float none = -__builtin_inff();
    int size = of->experts / of->groups;
    float first = none, second = none;
    for (int e = group * size; e < (group + 1) * size; e++) {
        float own = preferred(of, e);
        second = own > first ? first : own > second ? own : second;
        first = own > first ? own : first;
    }
    return num_best == 1 ? first : first + second;
}

/* The best `num_chosen` groups, a bit each. */
static uint64_t open_groups(const Choice *of, int num_chosen, int num_best) {
    float scores[MAX_GROUPS];
    uint64_t open = 0;
    for (int g = 0; g < of->groups; g++) scores[g] = score_of_group(of, g, num_best);
    for (int i = 0; i < num_chosen; i++) {
        int best = -1;
        for (int g = 0; g < of->groups; g++)
            if (!(open >> g & 1) && (best < 0 || scores[g] > scores[best])) best = g;
        open |= 1ull << best;
    }
    return open;
}

/* hidden [tokens, width]; weight [experts, width], of floats or numbers; bias and correction [experts] or null; `logits`
 * [tokens, experts] is overwritten -> chosen, weights [tokens, top_k], the best first. The correction counts for the
 * choice alone. Where fewer groups are chosen than there are, experts are chosen of those whose `num_best` best experts,
 * 1 or 2, add up to most.
 */
void route(const number *hidden, const void *weight, const float *bias, const float *correction, float *logits,
           int64_t *chosen, float *weights, int tokens, int width, int experts, int top_k, int has_floats, int by_sigmoid,
           int renormalizes, int groups, int chosen_groups, int num_best, float scaling, float least_sum) {
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
            Choice choice = {scores, correction, experts, groups, ~0ull};
            if (chosen_groups < groups) choice.open = open_groups(&choice, chosen_groups, num_best);
            for (int i = 0; i < top_k; i++) {
                places[i] = best_of(&choice, places, i);
                total += own[i] = scores[places[i]];
            }
            for (int i = 0; i < top_k; i++) own[i] *= renormalizes ? scaling / total : scaling;
        }
    }
}
