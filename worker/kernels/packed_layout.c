/* Brings packed weights into the order of packed.h, and reads rows of them. */
#include "packed.h"

/* Code [row, k] of rows of `row_bytes` bytes: one a byte, or two, of columns k and k + row_bytes. */
static inline int code_at(const uint8_t *codes, long row_bytes, int bits, long row, int k) {
    const uint8_t *own = codes + row * row_bytes;
    if (bits == 8) return own[k];
    return k < row_bytes ? own[k] & 15 : own[k - row_bytes] >> 4;
}

/* `flip` is xored into every code: 0x80 turns int8 into numbers from 0 to 255. Columns from `num_columns` on are zeros. */
void pack_codes(const uint8_t *codes, long row_bytes, int num_columns, int flip, const Packed *w, uint8_t *to) {
    int each = w->bits == 4 ? 8 : 4;
#pragma omp parallel for
    for (int panel = 0; panel < num_panels(w); panel++) {
        uint8_t *own = to + panel * panel_bytes(w);
        for (int k = 0; k < w->num_in; k += each)
            for (int o = 0; o < LANES; o++)
                for (int j = 0; j < 4; j++, own++) {
                    long row = (long)panel * LANES + o;
                    int low = w->zero, high = w->zero;
                    if (row < w->num_out && k + j < num_columns) low = code_at(codes, row_bytes, w->bits, row, k + j) ^ flip;
                    if (w->bits == 8) {
                        *own = low;
                        continue;
                    }
                    if (row < w->num_out && k + j + 4 < num_columns)
                        high = code_at(codes, row_bytes, w->bits, row, k + j + 4) ^ flip;
                    *own = low | high << 4;
                }
    }
}

/* Decodes the first rows of a panel to out [count, num_columns]. */
static void decode_lanes(const Packed *w, int panel, int count, int num_columns, number *out) {
    float tile[LANES * LANES];
    for (int k = 0; k < num_columns; k += LANES) {
        decode(w, panel, k, LANES, tile);
        for (int lane = 0; lane < count; lane++) {
            float row[LANES];
            number rounded[LANES];
            for (int j = 0; j < LANES; j++) row[j] = tile[j * LANES + lane];
            store(rounded, FLOATS(row));
            memcpy(out + (long)lane * num_columns + k, rounded, smaller(LANES, num_columns - k) * sizeof(number));
        }
    }
}

/* out [count, num_columns] = `count` rows from `first` on, a multiple of 16. */
void decode_all(const Packed *w, int first, int count, int num_columns, number *out) {
#pragma omp parallel for
    for (int i = 0; i < count; i += LANES)
        decode_lanes(w, (first + i) / LANES, smaller(LANES, count - i), num_columns, out + (long)i * num_columns);
}
