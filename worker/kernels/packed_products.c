/* Products of inputs [rows, in] with packed weights -> [rows, out]. */
#include <stdlib.h>

#include "packed.h"

#define PARALLEL_FROM 65536 /* codes times rows; with fewer, waking another thread costs more than it saves */

static inline void *buffer(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

#define EXACT_ROWS 64 /* whose sums a thread keeps */

/* sums [rows, 16] += inputs [rows, count] times numbers [count, 16]. */
static void add_products(const float *inputs, long stride, int rows, const float *numbers, int count, float *sums) {
    int row = 0;
    for (; row + 4 <= rows; row += 4) {
        vec own[4];
        for (int r = 0; r < 4; r++) own[r] = FLOATS(sums + (row + r) * LANES);
        for (int k = 0; k < count; k++)
            for (int r = 0; r < 4; r++) own[r] += inputs[(row + r) * stride + k] * FLOATS(numbers + k * LANES);
        for (int r = 0; r < 4; r++) FLOATS(sums + (row + r) * LANES) = own[r];
    }
    for (; row < rows; row++) {
        vec even = FLOATS(sums + row * LANES), odd = all(0);
        for (int k = 0; k < count; k += 2) {
            even += inputs[row * stride + k] * FLOATS(numbers + k * LANES);
            odd += inputs[row * stride + k + 1] * FLOATS(numbers + (k + 1) * LANES);
        }
        FLOATS(sums + row * LANES) = even + odd;
    }
}

/* With the inputs as they are, in float. */
void multiply_exact(const Packed *w, const number *inputs, int rows, number *out) {
    long width = w->num_in;
    float *wide = buffer(rows * width * sizeof(float));
    int step = smaller(w->group, ROUNDED), is_large = rows * width * w->num_out >= PARALLEL_FROM;
#pragma omp parallel if (is_large)
    {
#pragma omp for
        for (long i = 0; i < rows * width / LANES; i++) FLOATS(wide + i * LANES) = load(inputs + i * LANES);
#pragma omp for
        for (int panel = 0; panel < num_panels(w); panel++)
            for (int first = 0; first < rows; first += EXACT_ROWS) {
                int count = smaller(EXACT_ROWS, rows - first);
                float sums[EXACT_ROWS * LANES] = {0}, numbers[ROUNDED * LANES];
                for (int k = 0; k < width; k += step) {
                    decode(w, panel, k, step, numbers);
                    add_products(wide + first * width + k, width, count, numbers, step, sums);
                }
                for (int r = 0; r < count; r++)
                    store_outputs(w, panel, FLOATS(sums + r * LANES), out + (long)(first + r) * w->num_out);
            }
    }
    free(wide);
}

#ifdef __AVX512VNNI__
/* Inputs rounded to whole numbers of one byte, or of two: 256 * first + second, a row of bytes for each. Rows of bytes are in
 * blocks, which a tile reads together: of m rows, bytes [in / 4, m, 4]; of its m / bytes rows of inputs, a scale for every
 * ROUNDED of them [in / ROUNDED, rows], and for every step [in / step, rows] the sum of its numbers times -zero, and times
 * the scale.
 */
typedef struct {
    int8_t *codes;
    float *scales, *shares;
    int32_t *starts;
} Inputs;

#define MAX_M 6 /* rows of a block */
#define LARGEST(bytes) ((bytes) == 2 ? 32639 : 127) /* 127 * 256 + 127: both bytes are from -128 to 127 */

/* The first row of the block of a row of bytes, and its number of rows: as many blocks of MAX_M as there are, then one of 4,
 * 2, 1. They are even but for the last: both bytes of an input are in one block.
 */
static inline int block_of(int row, int rows, int *first) {
    *first = row / MAX_M * MAX_M;
    for (int m = MAX_M; m > 0; m = m == MAX_M ? 4 : m / 2)
        if (*first + m <= rows) {
            if (row < *first + m) return m;
            *first += m;
        }
    return 0;
}

#define INLINE static inline __attribute__((always_inline))

/* Writes the bytes of 32 numbers to a row of a block of m. */
INLINE void write_bytes(__m512i low, __m512i high, int8_t *to, int m) {
    int32_t fours[ROUNDED / 4];
    _mm_storeu_si128((__m128i *)fours, _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128((__m128i *)(fours + 4), _mm512_cvtepi32_epi8(high));
    for (int i = 0; i < ROUNDED / 4; i++) memcpy(to + i * 4L * m, fours + i, 4);
}

/* Rounds ROUNDED inputs of a row, from column k on. */
INLINE void round_inputs(int bytes, const Packed *w, const number *from, int row, int rows, int k, int step, const Inputs *to) {
    vec first = load(from), second = load(from + LANES);
    vec most = larger((vec)((bits)first & 0x7fffffff), (vec)((bits)second & 0x7fffffff));
    float peak = largest(most), by = peak > 0 ? LARGEST(bytes) / peak : 0, scale = peak / LARGEST(bytes);
    __m512i low = _mm512_cvtps_epi32((__m512)(first * by)), high = _mm512_cvtps_epi32((__m512)(second * by));
    int32_t sums[2] = {_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)};
    int begin, m = block_of(row * bytes, rows * bytes, &begin), num_steps = ROUNDED / step;
    int8_t *codes = to->codes + (long)begin * w->num_in + (long)k * m + (row * bytes - begin) * 4;
    if (bytes == 2) {
        const __m512i half = _mm512_set1_epi32(128);
        __m512i low_first = _mm512_srai_epi32(_mm512_add_epi32(low, half), 8);
        __m512i high_first = _mm512_srai_epi32(_mm512_add_epi32(high, half), 8);
        write_bytes(low_first, high_first, codes, m);
        codes += 4;
    }
    write_bytes(low, high, codes, m); /* of two bytes the last one, from -128 to 127 */
    begin /= bytes, m /= bytes;
    long block = (long)begin * w->num_in, own = row - begin;
    to->scales[block / ROUNDED + k / ROUNDED * m + own] = scale;
    if (num_steps == 1) sums[0] += sums[1];
    for (int i = 0; i < num_steps; i++) {
        long at = block / step + (k / step + i) * m + own;
        to->starts[at] = -w->zero * sums[i];
        to->shares[at] = scale * sums[i];
    }
}

#define UNROLL _Pragma("GCC unroll 32")
#define MAX_N 2 /* panels of a tile */
#define MAX_PARTS 6

/* sums += products of 4 codes of 0 to 255 and 4 inputs. The intrinsic makes GCC copy `sums` each time. */
INLINE void add_fours(__m512i *sums, __m512i codes, __m512i inputs) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sums) : "v"(codes), "v"(inputs));
}

/* dots [m, n] += 4 inputs of each row of a block times 4 codes of each of 16 outputs. */
INLINE void add_dots(int m, int n, __m512i dots[MAX_M][MAX_N], const int8_t *inputs, const __m512i codes[MAX_N]) {
    UNROLL for (int r = 0; r < m; r++) {
        int32_t four;
        memcpy(&four, inputs + r * 4, sizeof four);
        __m512i x = _mm512_set1_epi32(four);
        UNROLL for (int p = 0; p < n; p++) add_fours(&dots[r][p], codes[p], x);
    }
}

/* dots [m, n] += `step` inputs of each row times their codes. */
INLINE void add_step(int m, int n, int num_bits, int step, __m512i dots[MAX_M][MAX_N], const int8_t *inputs,
                     const uint8_t *const codes[MAX_N], const uint8_t *values) {
    const __m512i low = _mm512_set1_epi8(15);
    if (num_bits == 8)
        UNROLL for (int j = 0; j < step; j += 4) {
            __m512i own[MAX_N];
            UNROLL for (int p = 0; p < n; p++) own[p] = _mm512_loadu_si512(codes[p] + j * LANES);
            add_dots(m, n, dots, inputs + j * m, own);
        }
    else
        UNROLL for (int j = 0; j < step; j += 8) UNROLL for (int half = 0; half < 2; half++) {
            __m512i own[MAX_N];
            UNROLL for (int p = 0; p < n; p++) {
                __m512i bytes = _mm512_loadu_si512(codes[p] + j * LANES / 2);
                own[p] = _mm512_and_si512(half ? _mm512_srli_epi16(bytes, 4) : bytes, low);
                if (values)
                    own[p] = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)values)), own[p]);
            }
            add_dots(m, n, dots, inputs + (j + 4 * half) * m, own);
        }
}

/* Outputs of the `m` rows of bytes of the block from `row` on, of `n` panels; prefetches one of `parts` parts of the next
 * panels, as dense_products.c does.
 */
INLINE void multiply_tile(int m, int n, int num_bits, int step, int bytes, const Packed *w, const Inputs *x, int row,
                          const int *panels, int part, int parts, number *out) {
    const int width = w->num_in, groups = num_groups(w), is_shifted = has_least(w), has_one_scale = groups == 1 && !is_shifted;
    const int8_t *inputs = x->codes + (long)row * width;
    const int rows = m / bytes;
    row /= bytes;
    const float *scales = x->scales + (long)row * (width / ROUNDED), *shares = x->shares + (long)row * (width / step);
    const int32_t *starts = x->starts + (long)row * (width / step);
    const uint8_t *codes[MAX_N];
    UNROLL for (int p = 0; p < n; p++) codes[p] = w->codes + panels[p] * panel_bytes(w);
    vec sums[MAX_M][MAX_N], scale[MAX_N], least[MAX_N];
    UNROLL for (int p = 0; p < n; p++) {
        scale[p] = least[p] = all(0);
        UNROLL for (int r = 0; r < rows; r++) sums[r][p] = all(0);
    }
    for (int g = 0, k = 0, turn = 0; g < groups; g++) {
        UNROLL for (int p = 0; p < n; p++) load_scales(w, (long)panels[p] * groups + g, &scale[p], &least[p]);
        for (int stop = smaller(k + w->group, width); k < stop; k += step) {
            __m512i dots[MAX_M][MAX_N];
            UNROLL for (int r = 0; r < m; r++) {
                int is_last = r % bytes == bytes - 1;
                __m512i start = is_last ? _mm512_set1_epi32(starts[k / step * rows + r / bytes]) : _mm512_setzero_si512();
                UNROLL for (int p = 0; p < n; p++) dots[r][p] = start;
            }
            add_step(m, n, num_bits, step, dots, inputs + (long)k * m, codes, w->values);
            UNROLL for (int p = 0; p < n; p++) {
                if (turn == part)
                    UNROLL for (int i = 0; i < step * LANES * num_bits / 8; i += 64)
                        __builtin_prefetch(codes[p] + i + n * panel_bytes(w));
                codes[p] += step * LANES * num_bits / 8;
            }
            turn = turn + 1 == parts ? 0 : turn + 1;
            UNROLL for (int r = 0; r < rows; r++) {
                float by = scales[k / ROUNDED * rows + r];
                UNROLL for (int p = 0; p < n; p++) {
                    __m512i dot = dots[r * bytes][p];
                    if (bytes == 2) dot = _mm512_add_epi32(_mm512_slli_epi32(dot, 8), dots[r * bytes + 1][p]);
                    vec found = (vec)_mm512_cvtepi32_ps(dot);
                    sums[r][p] += (has_one_scale ? found : found * scale[p]) * by;
                    if (is_shifted) sums[r][p] += least[p] * shares[k / step * rows + r];
                }
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int p = 0; p < n; p++) {
        vec found = has_one_scale ? sums[r][p] * scale[p] : sums[r][p];
        store_outputs(w, panels[p], found, out + (long)(row + r) * w->num_out);
    }
}

INLINE void multiply_rows(int num_bits, int step, int bytes, const Packed *w, const Inputs *x, int rows, const int *panels,
                          number *out) {
    if (rows == bytes) { /* one stream of codes is read faster than two */
        for (int p = 0; p < MAX_N; p++) multiply_tile(bytes, 1, num_bits, step, bytes, w, x, 0, panels + p, 0, 1, out);
        return;
    }
    const int parts = smaller((rows + MAX_M - 1) / MAX_M, MAX_PARTS);
    for (int row = 0, part = 0, m, first; row < rows; row += m, part++) {
        m = block_of(row, rows, &first);
        switch (m) {
            case 6: multiply_tile(6, 2, num_bits, step, bytes, w, x, row, panels, part, parts, out); break;
            case 4: multiply_tile(4, 2, num_bits, step, bytes, w, x, row, panels, part, parts, out); break;
            case 2: multiply_tile(2, 2, num_bits, step, bytes, w, x, row, panels, part, parts, out); break;
            default: multiply_tile(1, 2, num_bits, step, 1, w, x, row, panels, part, parts, out);
        }
    }
}

INLINE void multiply_panels(int bytes, const Packed *w, const Inputs *x, int rows, const int *panels, number *out) {
    if (w->bits == 4)
        multiply_rows(4, ROUNDED, bytes, w, x, rows * bytes, panels, out);
    else if (w->group >= ROUNDED)
        multiply_rows(8, ROUNDED, bytes, w, x, rows * bytes, panels, out);
    else
        multiply_rows(8, LANES, bytes, w, x, rows * bytes, panels, out);
}

/* `bytes` is a variable in the parallel part, which the compiler makes a function of its own; the loops of a tile need a constant. */
INLINE void multiply_whole(int bytes, const Packed *w, const number *inputs, int rows, number *out) {
    const int width = w->num_in, step = smaller(w->group, ROUNDED), panels = num_panels(w);
    const long num_rounded = (long)rows * width / ROUNDED;
    const size_t num_steps = (size_t)rows * width / step;
    Inputs x = {buffer((size_t)rows * width * bytes), buffer(num_rounded * sizeof(float)),
                buffer(num_steps * sizeof(float)), buffer(num_steps * sizeof(int32_t))};
    const int is_large = (long)rows * width * w->num_out >= PARALLEL_FROM;
#pragma omp parallel if (is_large)
    {
#pragma omp for
        for (long i = 0; i < num_rounded; i++) {
            int row = i / (width / ROUNDED), k = i % (width / ROUNDED) * ROUNDED;
            if (bytes == 1)
                round_inputs(1, w, inputs + i * ROUNDED, row, rows, k, step, &x);
            else
                round_inputs(2, w, inputs + i * ROUNDED, row, rows, k, step, &x);
        }
#pragma omp for
        for (int first = 0; first < panels; first += MAX_N) {
            int own[MAX_N] = {first, smaller(first + 1, panels - 1)}; /* an odd last one is computed twice */
            if (bytes == 1)
                multiply_panels(1, w, &x, rows, own, out);
            else
                multiply_panels(2, w, &x, rows, own, out);
        }
    }
    free(x.codes);
    free(x.scales);
    free(x.shares);
    free(x.starts);
}

/* With inputs rounded to one byte. */
void multiply_rounded(const Packed *w, const number *inputs, int rows, number *out) {
    multiply_whole(1, w, inputs, rows, out);
}

/* With inputs rounded to two bytes. */
void multiply_fine(const Packed *w, const number *inputs, int rows, number *out) {
    multiply_whole(2, w, inputs, rows, out);
}

int can_round(void) { return 1; }
#else
void multiply_rounded(const Packed *w, const number *inputs, int rows, number *out) {}

void multiply_fine(const Packed *w, const number *inputs, int rows, number *out) {}

int can_round(void) { return 0; }
#endif
