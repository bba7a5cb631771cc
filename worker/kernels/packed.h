/* Packed weights [out, in] in the order that products read them; worker/kernels/packed/layout.py fills this in.
 *
 * 16 outputs side by side are a panel. Its codes are [in / 4, 16, 4] bytes, or with 4 bits [in / 8, 16, 4], the low half
 * of a byte holding input j of 8 and the high half input j + 4. Numbers of groups are [panels, groups, 16]. A code c stands
 * for (c - zero - offset) * scale + minimum, where `zero` is the same for all codes, and there are offsets, minimums or
 * neither. With `values` a code is an index of 16 whole numbers from 0 to 255, which take its place.
 *
 * Experts have two more kinds. E4M3: a panel is [in / 4, 4, 2, 4, 2] bytes, of 4 inputs and 4 times 4 outputs first inputs 0
 * and 1 of each, then 2 and 3. AS_IT_IS: [in / 2, 16, 2] numbers of 16 bits, or [in, 16] of 32, without scales.
 */
#include "numbers.h"

enum { FLOAT16, BFLOAT16, FLOAT32, FLOAT32_PANEL }; /* the type of scales and minimums; the last: [panels, groups] */
enum { WHOLE, E4M3, AS_IT_IS };                    /* what codes stand for */

typedef struct {
    const uint8_t *codes;
    const void *scales, *minimums; /* minimums may be null; so may the next three */
    const uint8_t *offsets, *values;
    const number *bias;                               /* [out] */
    int32_t num_out, num_in, bits, group, form, zero; /* num_in is a multiple of ROUNDED; the group too, or 16 */
    int32_t kind;
} Packed;

#define ROUNDED 32 /* inputs that are rounded together */

typedef uint32_t code_bits __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(64)));

static inline int num_panels(const Packed *w) { return (w->num_out + LANES - 1) / LANES; }

static inline int num_groups(const Packed *w) { return (w->num_in + w->group - 1) / w->group; }

static inline long panel_bytes(const Packed *w) { return (long)w->num_in * LANES * w->bits / 8; }

static inline vec from_float16(half_bits raw) {
#ifdef __AVX512F__
    return (vec)_mm512_cvtph_ps((__m256i)raw);
#else
    bits wide = __builtin_convertvector(raw, bits);
    vec magnitude = (vec)((wide & 0x7fff) << 13) * 0x1p112f; /* right for subnormal numbers, not for infinities */
    return (vec)((bits)magnitude | (wide & 0x8000) << 16);
#endif
}

/* 16 numbers of one group of a panel, of the type `form`. */
static inline vec load_group(const void *numbers, long at, int form) {
    if (form == FLOAT32_PANEL) return all(((const float *)numbers)[at]);
    if (form == FLOAT32) return FLOATS((const float *)numbers + at * LANES);
    half_bits raw;
    memcpy(&raw, (const uint16_t *)numbers + at * LANES, sizeof raw);
    return form == FLOAT16 ? from_float16(raw) : (vec)(__builtin_convertvector(raw, bits) << 16);
}

static inline int has_least(const Packed *w) { return w->minimums || w->offsets; }

/* Scales of one group of a panel, and what a code of `zero` stands for if has_least(). */
static inline void load_scales(const Packed *w, long at, vec *scale, vec *least) {
    *scale = load_group(w->scales, at, w->form);
    *least = all(0);
    if (w->minimums) *least = load_group(w->minimums, at, w->form);
    if (w->offsets) {
        typedef uint8_t bytes __attribute__((vector_size(16)));
        bytes raw;
        memcpy(&raw, w->offsets + at * LANES, sizeof raw);
        *least = -__builtin_convertvector(__builtin_convertvector(raw, whole), vec) * *scale;
    }
}

/* e4m3: a sign, 4 bits of exponent, 3 of mantissa. As the upper bits of a float they stand for 2^-120 of it. */
static inline vec from_e4m3(bits code) {
    bits magnitude = code & 0x7f;
    vec found = (vec)(magnitude << 20 | (code & 0x80) << 24) * 0x1p120f;
    return choose((bits)(magnitude == 0x7f), (vec)(bits){0} + __builtin_nanf(""), found);
}

/* As decode(), of codes that are not whole numbers. */
static inline void decode_others(const Packed *w, int panel, int first, int count, float *to) {
    const uint8_t *codes = w->codes + panel * panel_bytes(w) + (long)first * LANES * w->bits / 8;
    vec scale = all(1);
    if (w->kind == E4M3) scale = load_group(w->scales, (long)panel * num_groups(w) + first / w->group, w->form);
    for (int k = 0; k < count; k++) {
        bits raw = {0};
        if (w->bits == 32) {
            FLOATS(to + k * LANES) = FLOATS((const float *)codes + k * LANES);
            continue;
        }
        for (int o = 0; o < LANES; o++) {
            if (w->kind == E4M3)
                raw[o] = codes[k / 4 * 64 + o / 4 * 16 + k / 2 % 2 * 8 + o % 4 * 2 + k % 2];
            else
                raw[o] = (uint32_t)((const uint16_t *)codes)[k / 2 * 2 * LANES + o * 2 + k % 2] << 16;
        }
        FLOATS(to + k * LANES) = w->kind == E4M3 ? from_e4m3(raw) * scale : (vec)raw;
    }
}

/* The numbers of inputs [first, first + count) of a panel, [count, 16]; they lie in one group, and both are multiples of 8. */
static inline void decode(const Packed *w, int panel, int first, int count, float *to) {
    if (w->kind != WHOLE) {
        decode_others(w, panel, first, count, to);
        return;
    }
    vec scale, least;
    load_scales(w, (long)panel * num_groups(w) + first / w->group, &scale, &least);
    int each = w->bits == 4 ? 8 : 4;
    const uint8_t *codes = w->codes + panel * panel_bytes(w) + (long)first / each * 4 * LANES;
    for (int k = 0; k < count; k += each, codes += 4 * LANES) {
        bits word = (bits)*(const code_bits *)codes;
        for (int j = 0; j < each; j++) {
            bits code = w->bits == 4 ? (word >> (8 * (j % 4) + 4 * (j / 4))) & 15 : (word >> (8 * j)) & 255;
            if (w->values)
                for (int i = 0; i < LANES; i++) code[i] = w->values[code[i]];
            FLOATS(to + (k + j) * LANES) = __builtin_convertvector((whole)code - w->zero, vec) * scale + least;
        }
    }
}

/* Writes 16 outputs, or those of them that there are, with the bias. */
static inline void store_outputs(const Packed *w, int panel, vec x, number *row) {
    int left = w->num_out - panel * LANES;
    number *to = row + panel * LANES;
    if (left >= LANES) {
        store(to, w->bias ? x + load(w->bias + panel * LANES) : x);
        return;
    }
    number some[LANES] = {0};
    if (w->bias) memcpy(some, w->bias + panel * LANES, left * sizeof(number));
    store(some, x + load(some));
    memcpy(to, some, left * sizeof(number));
}
