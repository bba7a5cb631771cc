/* Products of a few prepared rows with two panels of packed weights, in the ways of experts.h. */
#include "experts.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define AHEAD 4096 /* bytes: the processor itself reads ahead to the end of a page of memory at most */

long row_bytes(int way, int num_in) {
    const long parts = num_in / PART;
    if (way == FINE) return (parts * (long)sizeof(FinePart) + 63) / 64 * 64;
    return num_in * (way == PAIRS ? 2L : 4L);
}

/* With the inputs as they are, in float. */
static void multiply_exact_pair(const Packed *w, int panel, const char *const *rows, int count, float *sums) {
    const int step = smaller(w->group, PART);
    float numbers[PART * LANES];
    memset(sums, 0, sizeof(float) * 2 * LANES * count);
    for (int p = 0; p < 2; p++)
        for (int k = 0; k < w->num_in; k += step) {
            decode(w, panel + p, k, step, numbers);
            for (int r = 0; r < count; r++) {
                const float *x = (const float *)rows[r] + k;
                float *to = sums + r * 2 * LANES + p * LANES;
                vec even = FLOATS(to), odd = all(0);
                for (int i = 0; i < step; i += 2) {
                    even += x[i] * FLOATS(numbers + i * LANES);
                    odd += x[i + 1] * FLOATS(numbers + (i + 1) * LANES);
                }
                FLOATS(to) = even + odd;
            }
        }
}

#ifdef __AVX512VNNI__
static void prepare_fine(const Packed *w, vec first, vec second, FinePart *to) {
    vec most = larger((vec)((bits)first & 0x7fffffff), (vec)((bits)second & 0x7fffffff));
    const float peak = largest(most), by = peak > 0 ? 32639 / peak : 0; /* 127 * 256 + 127: both bytes are from -128 to 127 */
    const __m512i half = _mm512_set1_epi32(128);
    __m512i whole[2] = {_mm512_cvtps_epi32((__m512)(first * by)), _mm512_cvtps_epi32((__m512)(second * by))};
    to->scale = peak / 32639;
    int32_t sums[2];
    for (int i = 0; i < 2; i++) {
        int32_t fours[2][LANES / 4];
        _mm_storeu_si128((__m128i *)fours[0], _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(whole[i], half), 8)));
        _mm_storeu_si128((__m128i *)fours[1], _mm512_cvtepi32_epi8(whole[i]));
        for (int j = 0; j < LANES / 4; j++)
            for (int byte = 0; byte < 2; byte++) memcpy(to->codes[i * LANES / 4 + j][byte], &fours[byte][j], 4);
        sums[i] = _mm512_reduce_add_epi32(whole[i]);
    }
    if (w->group >= PART) sums[0] += sums[1];
    for (int i = 0; i < 2; i++) {
        to->starts[i] = -w->zero * sums[i];
        to->shares[i] = to->scale * sums[i];
    }
}

/* sums += products of 4 codes of 0 to 255 and 4 inputs. The intrinsic makes GCC copy `sums` each time. */
INLINE void add_fours(__m512i *sums, __m512i codes, int32_t inputs) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sums) : "v"(codes), "v"(_mm512_set1_epi32(inputs)));
}

INLINE int32_t four(const int8_t *from) {
    int32_t found;
    memcpy(&found, from, sizeof found);
    return found;
}

#define FINE_ROWS 3

/* Outputs of `m` rows, of `n` panels; `step` inputs have a scale. `is_indexed`: there are `values`. */
INLINE void fine_tile(int m, int n, int num_bits, int step, int is_indexed, const Packed *w, int panel,
                      const FinePart *const *rows, float *out) {
    const int groups = num_groups(w), is_shifted = has_least(w), has_one_scale = groups == 1 && !is_shifted;
    const long bytes = panel_bytes(w);
    const uint8_t *codes = w->codes + panel * bytes;
    const __m512i low = _mm512_set1_epi8(15);
    __m512i values = low;
    if (is_indexed) values = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)w->values));
    vec sums[FINE_ROWS][2], scale[2] = {all(0), all(0)}, least[2] = {all(0), all(0)};
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int p = 0; p < n; p++) sums[r][p] = all(0);
    for (int g = 0, k = 0; g < groups; g++) {
        UNROLL for (int p = 0; p < n; p++) load_scales(w, (long)(panel + p) * groups + g, &scale[p], &least[p]);
        for (int stop = smaller(k + w->group, w->num_in); k < stop; k += step) {
            const int part = k / PART, half = step == PART ? 0 : k / LANES % 2;
            __m512i firsts[FINE_ROWS][2], dots[FINE_ROWS][2];
            UNROLL for (int r = 0; r < m; r++) UNROLL for (int p = 0; p < n; p++) {
                firsts[r][p] = _mm512_setzero_si512();
                dots[r][p] = _mm512_set1_epi32(rows[r][part].starts[half]);
            }
            UNROLL for (int j = 0; j < step / 4; j++) {
                __m512i own[2];
                UNROLL for (int p = 0; p < n; p++) {
                    if (num_bits == 8) {
                        own[p] = _mm512_loadu_si512(codes + p * bytes + j * 64);
                        __builtin_prefetch(codes + AHEAD + p * bytes + j * 64);
                    } else {
                        __m512i both = _mm512_loadu_si512(codes + p * bytes + j / 2 * 64);
                        if (j % 2 == 0) __builtin_prefetch(codes + AHEAD + p * bytes + j / 2 * 64);
                        own[p] = _mm512_and_si512(j % 2 ? _mm512_srli_epi16(both, 4) : both, low);
                        if (is_indexed) own[p] = _mm512_shuffle_epi8(values, own[p]);
                    }
                }
                UNROLL for (int r = 0; r < m; r++) {
                    const int8_t(*x)[4] = rows[r][part].codes[half * LANES / 4 + j];
                    UNROLL for (int p = 0; p < n; p++) {
                        add_fours(&firsts[r][p], own[p], four(x[0]));
                        add_fours(&dots[r][p], own[p], four(x[1]));
                    }
                }
            }
            codes += step * LANES * num_bits / 8;
            UNROLL for (int r = 0; r < m; r++) {
                const float by = rows[r][part].scale, share = rows[r][part].shares[half];
                UNROLL for (int p = 0; p < n; p++) {
                    vec found = (vec)_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(firsts[r][p], 8), dots[r][p]));
                    sums[r][p] += (has_one_scale ? found : found * scale[p]) * by;
                    if (is_shifted) sums[r][p] += least[p] * share;
                }
            }
        }
    }
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int p = 0; p < n; p++)
        FLOATS(out + (r * 2 + p) * LANES) = has_one_scale ? sums[r][p] * scale[p] : sums[r][p];
}

INLINE void fine_rows(int num_bits, int step, int is_indexed, const Packed *w, int panel, const FinePart *const *rows,
                      int count, float *sums) {
    const int width = 2 * LANES;
    if (count == 1) { /* one stream of codes is read faster than two */
        fine_tile(1, 1, num_bits, step, is_indexed, w, panel, rows, sums);
        fine_tile(1, 1, num_bits, step, is_indexed, w, panel + 1, rows, sums + LANES);
        return;
    }
    int row = 0;
    for (; row + 3 <= count; row += 3)
        fine_tile(3, 2, num_bits, step, is_indexed, w, panel, rows + row, sums + row * width);
    for (; row + 2 <= count; row += 2)
        fine_tile(2, 2, num_bits, step, is_indexed, w, panel, rows + row, sums + row * width);
    if (row < count) fine_tile(1, 2, num_bits, step, is_indexed, w, panel, rows + row, sums + row * width);
}

static void multiply_fine_pair(const Packed *w, int panel, const char *const *rows, int count, float *sums) {
    const FinePart *const *parts = (const FinePart *const *)rows;
    if (w->bits == 4 && w->values)
        fine_rows(4, PART, 1, w, panel, parts, count, sums);
    else if (w->bits == 4)
        fine_rows(4, PART, 0, w, panel, parts, count, sums);
    else if (w->group >= PART)
        fine_rows(8, PART, 0, w, panel, parts, count, sums);
    else
        fine_rows(8, LANES, 0, w, panel, parts, count, sums);
}
#endif

#if defined(BF16) && defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define HAS_PAIRS
#endif

#ifdef HAS_PAIRS
#define PAIR_ROWS 3

/* The upper and the lower byte of the bfloat16 of each e4m3 without its sign. */
typedef struct {
    __m512i upper[2], lower[2];
} Decoding;

static Decoding decoding;

static void __attribute__((constructor)) make_decoding(void) {
    uint8_t upper[128], lower[128];
    for (int code = 0; code < 128; code += LANES) {
        bits codes;
        for (int i = 0; i < LANES; i++) codes[i] = code + i;
        bits found = (bits)from_e4m3(codes) >> 16;
        for (int i = 0; i < LANES; i++) upper[code + i] = found[i] >> 8 & 0x7f, lower[code + i] = found[i];
    }
    decoding = (Decoding){{_mm512_loadu_si512(upper), _mm512_loadu_si512(upper + 64)},
                          {_mm512_loadu_si512(lower), _mm512_loadu_si512(lower + 64)}};
}

INLINE void add_pairs(vec *sums, __m512i numbers, const char *inputs) {
    int32_t both;
    memcpy(&both, inputs, sizeof both);
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(*sums) : "v"(numbers), "v"(_mm512_set1_epi32(both)));
}

/* Outputs of `m` rows of bfloat16, of `n` panels of e4m3 or bfloat16. */
INLINE void pairs_tile(int m, int n, int kind, const Packed *w, int panel, const char *const *rows, float *out) {
    const int groups = kind == E4M3 ? num_groups(w) : 1, group = kind == E4M3 ? w->group : w->num_in;
    const long bytes = panel_bytes(w);
    const uint8_t *codes = w->codes + panel * bytes;
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    const Decoding by = decoding;
    vec sums[PAIR_ROWS][2];
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int p = 0; p < n; p++) sums[r][p] = all(0);
    for (int g = 0, k = 0; g < groups; g++) {
        vec dots[2][PAIR_ROWS][2];
        UNROLL for (int r = 0; r < m; r++) UNROLL for (int p = 0; p < n; p++) dots[0][r][p] = dots[1][r][p] = all(0);
        for (int stop = smaller(k + group, w->num_in); k < stop; k += 8) {
            UNROLL for (int j = 0; j < 8; j += 4) UNROLL for (int p = 0; p < n; p++) {
                __m512i own[2];
                if (kind == E4M3) {
                    __builtin_prefetch(codes + AHEAD + p * bytes + j * LANES);
                    __m512i code = _mm512_loadu_si512(codes + p * bytes + j * LANES);
                    __m512i upper = _mm512_permutex2var_epi8(by.upper[0], code, by.upper[1]);
                    __m512i lower = _mm512_permutex2var_epi8(by.lower[0], code, by.lower[1]);
                    upper = _mm512_ternarylogic_epi32(upper, code, sign, 0xf8); /* upper | code & sign */
                    own[0] = _mm512_unpacklo_epi8(lower, upper);
                    own[1] = _mm512_unpackhi_epi8(lower, upper);
                } else
                    UNROLL for (int i = 0; i < 2; i++) {
                        own[i] = _mm512_loadu_si512(codes + p * bytes + (j + 2 * i) * LANES * 2);
                        __builtin_prefetch(codes + AHEAD + p * bytes + (j + 2 * i) * LANES * 2);
                    }
                UNROLL for (int r = 0; r < m; r++) UNROLL for (int i = 0; i < 2; i++)
                    add_pairs(&dots[i][r][p], own[i], rows[r] + (k + j + 2 * i) * 2L);
            }
            codes += 8 * LANES * (kind == E4M3 ? 1 : 2);
        }
        UNROLL for (int p = 0; p < n; p++) {
            vec scale = all(1);
            if (kind == E4M3) scale = load_group(w->scales, (long)(panel + p) * groups + g, w->form);
            UNROLL for (int r = 0; r < m; r++) sums[r][p] += (dots[0][r][p] + dots[1][r][p]) * scale;
        }
    }
    UNROLL for (int r = 0; r < m; r++) UNROLL for (int p = 0; p < n; p++) FLOATS(out + (r * 2 + p) * LANES) = sums[r][p];
}

INLINE void pairs_rows(int kind, const Packed *w, int panel, const char *const *rows, int count, float *sums) {
    const int width = 2 * LANES;
    if (count == 1) {
        pairs_tile(1, 1, kind, w, panel, rows, sums);
        pairs_tile(1, 1, kind, w, panel + 1, rows, sums + LANES);
        return;
    }
    int row = 0;
    for (; row + 3 <= count; row += 3) pairs_tile(3, 2, kind, w, panel, rows + row, sums + row * width);
    for (; row + 2 <= count; row += 2) pairs_tile(2, 2, kind, w, panel, rows + row, sums + row * width);
    if (row < count) pairs_tile(1, 2, kind, w, panel, rows + row, sums + row * width);
}
#endif

void prepare(int way, const Packed *w, const float *inputs, char *row, int part) {
    const vec first = FLOATS(inputs), second = FLOATS(inputs + LANES);
    if (way == EXACT) {
        FLOATS(row + part * PART * 4L) = first;
        FLOATS(row + (part * PART + LANES) * 4L) = second;
    }
#ifdef __AVX512VNNI__
    if (way == FINE) prepare_fine(w, first, second, (FinePart *)row + part);
#endif
#ifdef HAS_PAIRS
    if (way == PAIRS) {
        store((number *)row + part * PART, first);
        store((number *)row + part * PART + LANES, second);
    }
#endif
}

void multiply_pair(int way, const Packed *w, int panel, const char *const *rows, int count, float *sums) {
    if (way == EXACT) multiply_exact_pair(w, panel, rows, count, sums);
#ifdef __AVX512VNNI__
    if (way == FINE) multiply_fine_pair(w, panel, rows, count, sums);
#endif
#ifdef HAS_PAIRS
    if (way == PAIRS && w->kind == E4M3) pairs_rows(E4M3, w, panel, rows, count, sums);
    if (way == PAIRS && w->kind == AS_IT_IS) pairs_rows(AS_IT_IS, w, panel, rows, count, sums);
#endif
}

/* How inputs of a matrix may be multiplied other than in float; EXACT if they may not. */
int best_way(const Packed *w) {
#ifdef __AVX512VNNI__
    if (w->kind == WHOLE) return FINE;
#endif
#ifdef HAS_PAIRS
    if (w->kind == E4M3 || (w->kind == AS_IT_IS && w->bits == 16)) return PAIRS;
#endif
    return EXACT;
}
