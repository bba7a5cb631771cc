/* Numbers and vectors of the kernels, in plain C with the vector types of GCC and clang. Numbers are stored as float, or
 * as bfloat16 with -DBF16, and computed in float. worker/kernels/native.py compiles this on the machine where it runs.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(64)));      /* 16 numbers */
typedef uint32_t bits __attribute__((vector_size(64)));  /* 16 numbers as integers */
typedef uint16_t half_bits __attribute__((vector_size(32)));
typedef float unaligned __attribute__((vector_size(64), aligned(4), may_alias));

#define FLOATS(address) (*(unaligned *)(address)) /* 16 floats in memory, to read or to write */

#define LANES 16

/* The layout of keys and values in the pool, which attention multiplies without rearranging them. 16 tokens of a head are
 * a group of [16, dim] numbers. Keys are [dim / IN_WORD, 16, IN_WORD] in it, values [16 / IN_WORD, dim, IN_WORD]. A word
 * is two numbers where the processor multiplies pairs of bfloat16, else one.
 */
#if defined(BF16) && defined(__AVX512BF16__)
#define IN_WORD 2
#else
#define IN_WORD 1
#endif

#ifdef BF16
typedef uint16_t number;

static inline vec load(const number *from) {
    half_bits raw;
    memcpy(&raw, from, sizeof raw);
    return (vec)(__builtin_convertvector(raw, bits) << 16);
}

static inline void store(number *to, vec x) { /* to the nearest, ties to even; NaN stays NaN */
#ifdef __AVX512BF16__
    __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    memcpy(to, &rounded, sizeof rounded);
#else
    bits raw = (bits)x, is_nan = (bits)(x != x);
    raw = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
    half_bits rounded = __builtin_convertvector((raw & ~is_nan) | (0x7fc0 & is_nan), half_bits);
    memcpy(to, &rounded, sizeof rounded);
#endif
}

static inline float one(const number *from) {
    union {
        uint32_t raw;
        float x;
    } found = {(uint32_t)*from << 16};
    return found.x;
}
#else
typedef float number;

static inline float one(const number *from) { return *from; }

static inline vec load(const number *from) { return FLOATS(from); }

static inline void store(number *to, vec x) { FLOATS(to) = x; }
#endif

static inline int smaller(int a, int b) { return a < b ? a : b; }

static inline vec choose(bits mask, vec yes, vec no) { return (vec)((mask & (bits)yes) | (~mask & (bits)no)); }

#ifdef __AVX512F__
static inline vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
#else
static inline vec larger(vec a, vec b) { return choose((bits)(a > b), a, b); }
#endif

static inline vec all(float x) { return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

#define ROTATED(x, n) \
    __builtin_shuffle(x, (bits){(n) % 16, (1 + n) % 16, (2 + n) % 16, (3 + n) % 16, (4 + n) % 16, (5 + n) % 16, \
                                (6 + n) % 16, (7 + n) % 16, (8 + n) % 16, (9 + n) % 16, (10 + n) % 16, (11 + n) % 16, \
                                (12 + n) % 16, (13 + n) % 16, (14 + n) % 16, (15 + n) % 16})

static inline float sum(vec x) {
    x += ROTATED(x, 8);
    x += ROTATED(x, 4);
    x += ROTATED(x, 2);
    return (x + ROTATED(x, 1))[0];
}

static inline float largest(vec x) {
    x = larger(x, ROTATED(x, 8));
    x = larger(x, ROTATED(x, 4));
    x = larger(x, ROTATED(x, 2));
    return larger(x, ROTATED(x, 1))[0];
}

/* e^x with an error of about max(|x|, 2) units in the last place; 0 for very negative x and -infinity. */
#ifdef __AVX512F__
static inline vec exponential(vec x) {
    vec power = larger(all(-150.0f), x * 1.44269504f); /* the power of two; NaN stays NaN */
    vec n = (vec)_mm512_roundscale_ps((__m512)power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = power - n;
    vec p = all(1.54353e-4f);
    p = p * r + 1.33336e-3f;
    p = p * r + 9.61813e-3f;
    p = p * r + 5.55041e-2f;
    p = p * r + 2.40227e-1f;
    p = p * r + 6.93147e-1f;
    p = p * r + 1.0f;
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);
}
#else
static inline vec exponential(vec x) {
    bits is_tiny = (bits)(x < -87.0f);
    x = choose((bits)(x > 88.0f), all(88.0f), choose(is_tiny, all(-87.0f), x));
    vec shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the nearest integer is in the low bits */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693145752f - n * 1.42860677e-6f;
    vec p = all(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vec power = (vec)(((bits)shifted << 23) + 0x3f800000);
    return choose(is_tiny, all(0), p * power);
}
#endif

/* a / b; for bfloat16 with 14 bits, more than it stores. */
static inline vec divide(vec a, vec b) {
#if defined(BF16) && defined(__AVX512F__)
    return a * (vec)_mm512_rcp14_ps((__m512)b);
#else
    return a / b;
#endif
}

static inline float inverse_rms(const number *x, int width, float eps) {
    vec squares = all(0);
    for (int i = 0; i < width; i += LANES) {
        vec v = load(x + i);
        squares += v * v;
    }
    return 1.0f / __builtin_sqrtf(sum(squares) / width + eps);
}

/* out = norm(x) * weight, of one row. */
static inline void normalize(const number *x, const number *weight, number *out, int width, float eps) {
    vec scale = all(inverse_rms(x, width, eps));
    for (int i = 0; i < width; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
}
