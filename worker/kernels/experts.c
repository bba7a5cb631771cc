/* The experts that the rows of a step chose, in one call for a layer.
 *
 * Rows are grouped by expert, and an expert's weights are read once for all of its rows. Threads take chunks of `up` of all
 * experts, then chunks of `down`, each with all experts that add to its outputs: so nothing is added by two threads, and sums
 * have the same order in every run. A thread takes its next chunk before it begins one, to prefetch it meanwhile. On machines
 * with several nodes of memory it first takes those of its own node.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "experts.h"

#define MAX_NODES 16
#define MAX_CHOICES 8192 /* of rows that are computed together */
#define PAIR (2 * LANES)
#define FEW_ROWS 64    /* more rows wait for the arithmetic */
#define MAX_PAIRS 8    /* of panels in a chunk of `down`: memory is read faster in longer pieces */
#define SHARES 8       /* chunks of each thread, at least */
#define STARTED 2048   /* bytes of a piece of memory that are prefetched before it is read */
#define PARALLEL_FROM 65536 /* weights times rows; with fewer, waking another thread costs more than it saves */

typedef struct {
    int next[MAX_NODES][16]; /* the next item of each node, in a line of the cache of its own */
} Queue;

/* Rows grouped by expert: places [first[i], first[i + 1]) are those of expert ids[i]. */
typedef struct {
    const ExpertLayer *layer;
    int num_rows, num_used, up_chunks, down_chunks;
    int32_t *ids, *first, *tokens;
    float *weights;                      /* of places */
    char *inputs, *acts;                 /* prepared rows: of tokens, of places */
    float *sums;                         /* [threads, rows, outputs of a chunk] */
    long input_bytes, act_bytes, sums_size;
    int down_pairs; /* of a chunk of `down` */
    Queue up, down;
} Step;

static __thread struct { /* kept for the next call: fresh memory would be zeroed by the system each time */
    char *memory;
    size_t size;
} kept;

static pthread_key_t owner; /* of `kept.memory`: freed when its thread ends */

static void __attribute__((constructor)) make_owner(void) {
    if (pthread_key_create(&owner, free)) abort();
}

static char *take(size_t *used, size_t bytes) {
    char *found = kept.memory ? kept.memory + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return found;
}

static inline int start_of(int node, int nodes, int chunks) { return (int)((long)chunks * node / nodes); }

/* The next item, -1 if there is none. Items of a node are numbered by expert (`num_used` of them), then by chunk. */
static int claim(Queue *queue, int node, int nodes, int num_used, int chunks, int *chunk) {
    for (int i = 0; i < nodes; i++) {
        int own = (node + i) % nodes, start = start_of(own, nodes, chunks), count = start_of(own + 1, nodes, chunks) - start;
        if (__atomic_load_n(&queue->next[own][0], __ATOMIC_RELAXED) >= num_used * count) continue;
        int item = __atomic_fetch_add(&queue->next[own][0], 1, __ATOMIC_RELAXED);
        if (item >= num_used * count) continue;
        *chunk = start + item % count;
        return item / count;
    }
    return -1;
}

static Packed expert_of(const Packed *w, int expert) {
    Packed own = *w;
    long panels = num_panels(w), scales = panels * num_groups(w) * (w->form == FLOAT32_PANEL ? 1 : LANES);
    int size = w->form == FLOAT16 || w->form == BFLOAT16 ? 2 : 4;
    own.codes += expert * panels * panel_bytes(w);
    if (w->scales) own.scales = (const char *)w->scales + expert * scales * size;
    if (w->minimums) own.minimums = (const char *)w->minimums + expert * scales * size;
    if (w->offsets) own.offsets += expert * scales;
    return own;
}

static vec activated(int kind, vec x) {
    if (kind == SILU) return x * divide(all(1), 1 + exponential(-x));
    if (kind == GELU_TANH) {
        vec y = 0.79788456f * (x + 0.044715f * x * x * x);
        return x * divide(all(1), 1 + exponential(-2 * y));
    }
    vec z = (vec)((bits)x & 0x7fffffff) * 0.70710678f, t = 1 / (1 + 0.3275911f * z); /* the error is below 2e-7 */
    vec p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    vec half = 0.5f * p * exponential(-z * z);
    return x * choose((bits)(x < 0), half, 1 - half);
}

static inline vec clamped(vec x, float low, float high) {
    return choose((bits)(x > high), all(high), choose((bits)(x < low), all(low), x));
}

static vec gated(const ExpertLayer *layer, vec gate, vec up) {
    if (layer->limit > 0) {
        gate = choose((bits)(gate > layer->limit), all(layer->limit), gate);
        up = clamped(up, -layer->limit, layer->limit);
    }
    return activated(layer->activation, gate * layer->alpha) * (1 / layer->alpha) * (up + layer->shift);
}

/* What a product further on reads is on its way when it begins: within a piece of memory products see to that themselves. */
static inline void prefetch_start(const uint8_t *piece) {
    if (piece)
        for (int at = 0; at < STARTED; at += 64) __builtin_prefetch(piece + at);
}

/* A chunk of the activation of all rows of an expert. `ahead`: where the thread's next chunk begins, or null. */
static void compute_up(Step *step, int used, int chunk, const uint8_t *ahead) {
    const ExpertLayer *layer = step->layer;
    const Packed w = expert_of(&layer->up, step->ids[used]);
    const int pairs = layer->has_gate ? 2 : 1, panel = chunk * 2 * pairs, last = step->first[used + 1];
    const float *bias = layer->up_bias ? layer->up_bias + ((long)step->ids[used] * num_panels(&w) + panel) * LANES : NULL;
    float outputs[2][TILE_ROWS][2 * LANES];
    for (int place = step->first[used]; place < last; place += TILE_ROWS) {
        const char *rows[TILE_ROWS];
        const int count = smaller(TILE_ROWS, last - place);
        for (int r = 0; r < count; r++) rows[r] = step->inputs + step->tokens[place + r] * step->input_bytes;
        for (int pair = 0; pair < pairs; pair++) {
            if (pair == pairs - 1 && place == step->first[used]) prefetch_start(ahead);
            multiply_pair(layer->up_way, &w, panel + 2 * pair, rows, count, outputs[pair][0]);
        }
        for (int r = 0; r < count; r++) {
            float found[2 * LANES];
            for (int half = 0; half < 2; half++) {
                const float *own = outputs[layer->has_gate ? half : 0][r] + (layer->has_gate ? 0 : half * LANES);
                vec gate = FLOATS(own), up = all(0);
                if (bias) gate += FLOATS(bias + half * (layer->has_gate ? 2 : 1) * LANES);
                if (!layer->has_gate) {
                    FLOATS(found + half * LANES) = activated(layer->activation, gate);
                    continue;
                }
                up = FLOATS(own + LANES);
                if (bias) up += FLOATS(bias + (2 * half + 1) * LANES);
                FLOATS(found + half * LANES) = gated(layer, gate, up);
            }
            prepare(layer->down_way, &layer->down, found, step->acts + (place + r) * step->act_bytes, chunk);
        }
    }
}

static const uint8_t *panel_of(const Packed *w, int expert, int panel) {
    return w->codes + ((long)expert * num_panels(w) + panel) * panel_bytes(w);
}

/* Adds what an expert gives to outputs [32 * first, 32 * stop). */
static void add_expert(Step *step, int used, int first, int stop, float *sums) {
    const ExpertLayer *layer = step->layer;
    const int expert = step->ids[used], last = step->first[used + 1], width = (stop - first) * PAIR;
    const Packed w = expert_of(&layer->down, expert);
    const float *bias = layer->down_bias ? layer->down_bias + (long)expert * num_panels(&w) * LANES : NULL;
    float outputs[TILE_ROWS][PAIR];
    for (int place = step->first[used]; place < last; place += TILE_ROWS) {
        const char *rows[TILE_ROWS];
        const int count = smaller(TILE_ROWS, last - place);
        for (int r = 0; r < count; r++) rows[r] = step->acts + (place + r) * step->act_bytes;
        for (int pair = first; pair < stop; pair++) {
            multiply_pair(layer->down_way, &w, 2 * pair, rows, count, outputs[0]);
            for (int r = 0; r < count; r++)
                for (int lane = 0; lane < PAIR; lane += LANES) {
                    float *to = sums + (long)step->tokens[place + r] * width + (pair - first) * PAIR + lane;
                    vec found = FLOATS(outputs[r] + lane);
                    if (bias) found += FLOATS(bias + pair * PAIR + lane);
                    FLOATS(to) += step->weights[place + r] * found;
                }
        }
    }
}

/* Outputs [32 * first, 32 * stop) of all rows. `ahead`: where this thread's next ones begin, or null. */
static void compute_down(Step *step, int first, int stop, const uint8_t *ahead, float *sums, number *out) {
    const ExpertLayer *layer = step->layer;
    const int width = (stop - first) * PAIR;
    memset(sums, 0, sizeof(float) * width * step->num_rows);
    for (int used = 0; used < step->num_used; used++) {
        prefetch_start(used + 1 < step->num_used ? panel_of(&layer->down, step->ids[used + 1], 2 * first) : ahead);
        add_expert(step, used, first, stop, sums);
    }
    for (int row = 0; row < step->num_rows; row++)
        for (int at = 0; at < width && first * PAIR + at < layer->width; at += LANES) {
            int left = layer->width - first * PAIR - at;
            number rounded[LANES];
            store(rounded, FLOATS(sums + (long)row * width + at));
            memcpy(out + (long)row * layer->width + first * PAIR + at, rounded, smaller(left, LANES) * sizeof(number));
        }
}

/* Inputs [32 * part, 32 * part + 32) of a row, zeros from the width on. */
static void prepare_hidden(Step *step, const number *hidden, int row, int part) {
    const ExpertLayer *layer = step->layer;
    const number *from = hidden + (long)row * layer->width + part * PART;
    number some[PART] = {0};
    int left = layer->width - part * PART;
    if (left < PART) from = memcpy(some, from, left * sizeof(number));
    float wide[PART];
    FLOATS(wide) = load(from);
    FLOATS(wide + LANES) = load(from + LANES);
    prepare(layer->up_way, &layer->up, wide, step->inputs + row * step->input_bytes, part);
}

/* Groups the choices of the rows by expert. */
static void group(Step *step, const ExpertsCall *call, int start) {
    const int num_experts = step->layer->num_experts, top_k = call->top_k;
    const int64_t *chosen = call->chosen + (long)start * top_k;
    int32_t *counts = step->first + num_experts + 1; /* then the next place of each */
    memset(counts, 0, num_experts * sizeof(int32_t));
    for (int i = 0; i < step->num_rows * top_k; i++)
        if (chosen[i] >= 0 && chosen[i] < num_experts) counts[chosen[i]]++;
    int place = 0;
    step->num_used = 0;
    for (int expert = 0; expert < num_experts; expert++) {
        int count = counts[expert];
        counts[expert] = place;
        if (count == 0) continue;
        step->ids[step->num_used] = expert;
        step->first[step->num_used++] = place;
        place += count;
    }
    step->first[step->num_used] = place;
    for (int i = 0; i < step->num_rows * top_k; i++) {
        if (chosen[i] < 0 || chosen[i] >= num_experts) continue;
        int at = counts[chosen[i]]++;
        step->tokens[at] = i / top_k;
        step->weights[at] = call->weights[(long)start * top_k + i];
    }
}

/* Places all arrays of a step in the thread's memory; returns the bytes that they take. */
static size_t lay_out(Step *step, int top_k, int num_threads) {
    const ExpertLayer *layer = step->layer;
    const size_t rows = step->num_rows, places = rows * top_k;
    size_t used = 0;
    step->ids = (int32_t *)take(&used, layer->num_experts * sizeof(int32_t));
    step->first = (int32_t *)take(&used, (2 * layer->num_experts + 1) * sizeof(int32_t));
    step->tokens = (int32_t *)take(&used, places * sizeof(int32_t));
    step->weights = (float *)take(&used, places * sizeof(float));
    step->inputs = take(&used, rows * step->input_bytes);
    step->acts = take(&used, places * step->act_bytes);
    step->sums_size = (long)rows * PAIR * step->down_pairs;
    step->sums = (float *)take(&used, sizeof(float) * step->sums_size * num_threads);
    return used;
}

static void run(Step *step, const ExpertsCall *call, int start, int num_threads) {
    const ExpertLayer *layer = step->layer;
    const int nodes = layer->num_nodes, parts = layer->up.num_in / PART;
    const number *hidden = call->hidden + (long)start * layer->width;
    number *out = call->out + (long)start * layer->width;
    const long work = (long)step->first[step->num_used] * layer->up.num_out * layer->up.num_in;
#pragma omp parallel num_threads(work < PARALLEL_FROM ? 1 : num_threads)
    {
        unsigned cpu = 0, node = 0;
        if (nodes > 1) getcpu(&cpu, &node);
        node = node % nodes;
#pragma omp for
        for (int i = 0; i < step->num_rows * parts; i++) prepare_hidden(step, hidden, i / parts, i % parts);
        int chunk, next_chunk, used = claim(&step->up, node, nodes, step->num_used, step->up_chunks, &chunk);
        while (used >= 0) {
            int next = claim(&step->up, node, nodes, step->num_used, step->up_chunks, &next_chunk);
            const int panels = layer->has_gate ? 4 : 2;
            const uint8_t *ahead = NULL;
            if (next >= 0) ahead = panel_of(&layer->up, step->ids[next], next_chunk * panels);
            compute_up(step, used, chunk, ahead);
            used = next;
            chunk = next_chunk;
        }
#pragma omp barrier
        float *sums = step->sums + omp_get_thread_num() * step->sums_size;
        used = claim(&step->down, node, nodes, 1, step->down_chunks, &chunk);
        while (used >= 0) {
            int next = claim(&step->down, node, nodes, 1, step->down_chunks, &next_chunk);
            const uint8_t *ahead = NULL;
            if (next >= 0) ahead = panel_of(&layer->down, step->ids[0], 2 * next_chunk * step->down_pairs);
            const int first = chunk * step->down_pairs;
            compute_down(step, first, smaller(first + step->down_pairs, num_panels(&layer->down) / 2), ahead, sums, out);
            used = next;
            chunk = next_chunk;
        }
    }
}

/* `argument`: an ExpertsCall. Any thread may call this; it needs nothing of Python's. */
void compute_experts(void *argument) {
    const ExpertsCall *call = argument;
    const ExpertLayer *layer = call->layer;
    const int num_threads = layer->num_threads > 0 ? layer->num_threads : omp_get_max_threads();
    const int at_once = call->top_k > MAX_CHOICES ? 1 : MAX_CHOICES / call->top_k;
    for (int start = 0; start < call->num_rows; start += at_once) {
        Step step = {.layer = layer, .num_rows = smaller(at_once, call->num_rows - start)};
        step.input_bytes = row_bytes(layer->up_way, layer->up.num_in);
        step.act_bytes = row_bytes(layer->down_way, layer->down.num_in);
        step.up_chunks = layer->down.num_in / PART;
        const int pairs = num_panels(&layer->down) / 2, most = step.num_rows > FEW_ROWS ? 1 : MAX_PAIRS;
        step.down_pairs = pairs / (SHARES * num_threads) < 1 ? 1 : smaller(most, pairs / (SHARES * num_threads));
        step.down_chunks = (pairs + step.down_pairs - 1) / step.down_pairs;
        const size_t needed = lay_out(&step, call->top_k, num_threads);
        if (needed > kept.size) {
            free(kept.memory);
            kept.size = needed + needed / 4;
            kept.memory = aligned_alloc(64, (kept.size + 63) / 64 * 64);
            if (!kept.memory || pthread_setspecific(owner, kept.memory)) abort();
        }
        lay_out(&step, call->top_k, num_threads);
        group(&step, call, start);
        run(&step, call, start, num_threads);
    }
}
