/* The experts of one layer for the rows of a step: see compute_experts() in experts.c. worker/kernels/experts/cpu.py fills
 * these in.
 */
#include "packed.h"

enum { EXACT, FINE, PAIRS }; /* how inputs are multiplied: in float, as two bytes each, or as pairs of bfloat16 */
enum { SILU, GELU, GELU_TANH };

/* All experts of a layer. Of each tensor expert 0 lies at the address, the others follow one after the other. 32 outputs of
 * the activation are a chunk: with gates 4 panels of `up`, which are gates, what they multiply, gates, what they multiply;
 * else 2. `down` has an even number of panels. Biases are float, [panels, 16].
 */
typedef struct {
    Packed up, down;
    const float *up_bias, *down_bias; /* may be null */
    int32_t num_experts, width;       /* of the hidden states */
    int32_t up_way, down_way;
    int32_t activation, has_gate;
    float limit, alpha, shift; /* activation(alpha * gate) / alpha * (up + shift), both within the limit if that is above 0 */
    int32_t num_nodes;         /* of memory: the first chunks of each matrix lie on the first node, and so on */
    int32_t num_threads;       /* 0: as many as OpenMP has */
} ExpertLayer;

/* One step: out[row] = the sum over its choices of weight * expert(hidden[row]). A choice below 0, or not below num_experts,
 * adds nothing and reads nothing.
 */
typedef struct {
    const number *hidden;   /* [rows, width] */
    const int64_t *chosen;  /* [rows, top_k] */
    const float *weights;   /* [rows, top_k] */
    number *out;            /* [rows, width], overwritten */
    int32_t num_rows, top_k;
    const ExpertLayer *layer;
} ExpertsCall;

#define PART 32       /* inputs that are prepared together */
#define TILE_ROWS 16  /* rows that multiply_pair() takes at most */

/* 32 inputs as whole numbers of two bytes, 256 * first + second; the sums of all, or of each half, times the scale, and times
 * -zero of the matrix, for the first byte and the second.
 */
typedef struct {
    int8_t codes[PART / 4][2][4];
    float scale, shares[2];
    int32_t starts[2];
} FinePart;

/* Bytes of a row of inputs that is prepared for a matrix. */
long row_bytes(int way, int num_in);

/* Writes inputs [32 * part, 32 * part + 32) of a row. */
void prepare(int way, const Packed *w, const float *inputs, char *row, int part);

/* sums [count, 32] = the products of up to TILE_ROWS prepared rows with panels `panel` and `panel + 1`. */
void multiply_pair(int way, const Packed *w, int panel, const char *const *rows, int count, float *sums);

/* How the inputs of a matrix may be multiplied, at best. */
int best_way(const Packed *w);
