/* Norms, SwiGLU and rotary positions. Widths are multiples of 16. */
#include "numbers.h"

#define PARALLEL_FROM 32768 /* numbers below which waking another thread costs more than it saves */

static float inverse_rms(const number *x, int width, float eps) {
    vec squares = all(0);
    for (int i = 0; i < width; i += LANES) {
        vec v = load(x + i);
        squares += v * v;
    }
    return 1.0f / __builtin_sqrtf(sum(squares) / width + eps);
}

/* hidden += change; out = norm(hidden) * weight; all [tokens, width]. Without `change`, hidden stays. */
void add_norm(number *hidden, const number *change, const number *weight, number *out, int tokens, int width, float eps) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        number *own = hidden + (long)t * width, *result = out + (long)t * width;
        if (change)
            for (int i = 0; i < width; i += LANES) store(own + i, load(own + i) + load(change + (long)t * width + i));
        vec scale = all(inverse_rms(own, width, eps));
        for (int i = 0; i < width; i += LANES) store(result + i, load(own + i) * scale * load(weight + i));
    }
}

/* out = silu(gate) * up; gate_up [tokens, 2 * width], out [tokens, width]. */
void swiglu(const number *gate_up, number *out, int tokens, int width) {
#pragma omp parallel for if ((long)tokens * width >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        const number *gate = gate_up + 2L * t * width, *up = gate + width;
        for (int i = 0; i < width; i += LANES) {
            vec x = load(gate + i);
            store(out + (long)t * width + i, x / (1.0f + exponential(-x)) * load(up + i));
        }
    }
}

/* One head rotated from `x` to `to`, normed before if there is a weight. */
static void rotate(const number *x, number *to, const number *cos, const number *sin, const number *norm, float eps, int dim) {
    vec scale = all(norm ? inverse_rms(x, dim, eps) : 1.0f);
    for (int i = 0, j = dim / 2; i < dim / 2; i += LANES, j += LANES) {
        vec a = load(x + i) * scale, b = load(x + j) * scale;
        if (norm) {
            a *= load(norm + i);
            b *= load(norm + j);
        }
        store(to + i, a * load(cos + i) - b * load(sin + i));
        store(to + j, b * load(cos + j) + a * load(sin + j));
    }
}

/* Rotates the queries of qkv [tokens, heads + 2 * kv_heads, dim] in place and its keys into the pool, beside the values.
 * Pools are [kv_heads, num_slots, dim]; slots [tokens]; cos and sin [tokens, dim]; the norms [dim] or null.
 */
void rotate_and_write(number *qkv, const number *cos, const number *sin, const number *query_norm, const number *key_norm,
                      float eps, const int64_t *slots, number *keys, number *values, long num_slots, int tokens, int heads,
                      int kv_heads, int dim) {
#pragma omp parallel for if ((long)tokens * (heads + kv_heads) * dim >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) {
        number *own = qkv + (long)t * (heads + 2 * kv_heads) * dim;
        const number *c = cos + (long)t * dim, *s = sin + (long)t * dim;
        for (int h = 0; h < heads; h++) rotate(own + h * dim, own + h * dim, c, s, query_norm, eps, dim);
        for (int h = 0; h < kv_heads; h++) {
            long at = (h * num_slots + slots[t]) * dim;
            rotate(own + (heads + h) * dim, keys + at, c, s, key_norm, eps, dim);
            memcpy(values + at, own + (heads + kv_heads + h) * dim, dim * sizeof(number));
        }
    }
}

