/* Calls the kernels of a step one after the other: without Python between them, whose code and objects a step's weights
 * drive out of the processor's caches.
 */
#include "numbers.h"

typedef void *pointer;

void add_norm(pointer, pointer, pointer, pointer, int, int, float);
void swiglu(pointer, pointer, int, int);
void rotate_and_write(pointer, pointer, pointer, pointer, pointer, float, pointer, pointer, pointer, long, int, int, int,
                      int, int);
void attend(pointer, pointer, pointer, long, int, pointer, pointer, int, int, int, int, float, int, pointer, pointer);
void multiply_exact(pointer, pointer, int, pointer);
void multiply_rounded(pointer, pointer, int, pointer);
void multiply_fine(pointer, pointer, int, pointer);
void multiply_dense(pointer, pointer, pointer, int, int, int, pointer);
void compute_experts(pointer);
void route(pointer, pointer, pointer, pointer, pointer, pointer, pointer, int, int, int, int, int, int, int, int,
           int, int, float, float);
void add_shared(pointer, pointer, pointer, int, int);
void multiply_narrow(pointer, pointer, pointer, int, int, int, pointer);
void norm_rows(pointer, long, pointer, pointer, int, int, float);
void write_latents(pointer, long, pointer, long, pointer, pointer, pointer, float, pointer, pointer, pointer, int, int, int,
                   int, int, int);
void attend_latents(pointer, pointer, int, pointer, pointer, int, int, int, int, float, int, int, pointer, pointer);
void multiply_heads(pointer, pointer, long, long, pointer, long, long, int, int, int, int);

enum {
    ADD_NORM, SWIGLU, ROTATE_AND_WRITE, ATTEND, EXACT, ROUNDED, FINE, DENSE, EXPERTS, ROUTE, ADD_SHARED, NARROW,
    NORM_ROWS, WRITE_LATENTS, ATTEND_LATENTS, HEADS
}; /* REPLAYED of native.py */

typedef union {
    pointer p;
    int64_t i;
    float f;
} Argument;

typedef struct {
    int64_t kernel;
    Argument a[20];
} Call;

static void call(int64_t kernel, const Argument *a) {
    switch (kernel) {
    case ADD_NORM: add_norm(a[0].p, a[1].p, a[2].p, a[3].p, a[4].i, a[5].i, a[6].f); break;
    case SWIGLU: swiglu(a[0].p, a[1].p, a[2].i, a[3].i); break;
    case ROTATE_AND_WRITE:
        rotate_and_write(a[0].p, a[1].p, a[2].p, a[3].p, a[4].p, a[5].f, a[6].p, a[7].p, a[8].p, a[9].i, a[10].i, a[11].i,
                         a[12].i, a[13].i, a[14].i);
        break;
    case ATTEND:
        attend(a[0].p, a[1].p, a[2].p, a[3].i, a[4].i, a[5].p, a[6].p, a[7].i, a[8].i, a[9].i, a[10].i, a[11].f, a[12].i,
               a[13].p, a[14].p);
        break;
    case EXACT: multiply_exact(a[0].p, a[1].p, a[2].i, a[3].p); break;
    case ROUNDED: multiply_rounded(a[0].p, a[1].p, a[2].i, a[3].p); break;
    case FINE: multiply_fine(a[0].p, a[1].p, a[2].i, a[3].p); break;
    case DENSE: multiply_dense(a[0].p, a[1].p, a[2].p, a[3].i, a[4].i, a[5].i, a[6].p); break;
    case EXPERTS: compute_experts(a[0].p); break;
    case ROUTE:
        route(a[0].p, a[1].p, a[2].p, a[3].p, a[4].p, a[5].p, a[6].p, a[7].i, a[8].i, a[9].i, a[10].i, a[11].i, a[12].i,
              a[13].i, a[14].i, a[15].i, a[16].i, a[17].f, a[18].f);
        break;
    case ADD_SHARED: add_shared(a[0].p, a[1].p, a[2].p, a[3].i, a[4].i); break;
    case NARROW: multiply_narrow(a[0].p, a[1].p, a[2].p, a[3].i, a[4].i, a[5].i, a[6].p); break;
    case NORM_ROWS: norm_rows(a[0].p, a[1].i, a[2].p, a[3].p, a[4].i, a[5].i, a[6].f); break;
    case WRITE_LATENTS:
        write_latents(a[0].p, a[1].i, a[2].p, a[3].i, a[4].p, a[5].p, a[6].p, a[7].f, a[8].p, a[9].p, a[10].p, a[11].i,
                      a[12].i, a[13].i, a[14].i, a[15].i, a[16].i);
        break;
    case ATTEND_LATENTS:
        attend_latents(a[0].p, a[1].p, a[2].i, a[3].p, a[4].p, a[5].i, a[6].i, a[7].i, a[8].i, a[9].f, a[10].i, a[11].i,
                       a[12].p, a[13].p);
        break;
    case HEADS:
        multiply_heads(a[0].p, a[1].p, a[2].i, a[3].i, a[4].p, a[5].i, a[6].i, a[7].i, a[8].i, a[9].i, a[10].i);
        break;
    }
}

void replay(const Call *calls, int count) {
    for (int i = 0; i < count; i++) call(calls[i].kernel, calls[i].a);
}
