/* The calls of CUDA's driver that worker/kernels/cuda_driver.py makes, on host memory. What is put into a stream runs when
 * the test says so: run_stream() runs it once, and again for a recording.
 */
#include <stdint.h>
#include <string.h>

#define MOST 256

typedef struct {
    void (*function)(void *);
    void *target;
    const void *source;
    size_t num_bytes;
} Put;

static Put put[MOST];
static int num_put;

static int add(Put next) {
    if (num_put == MOST) return 2; /* out of memory */
    put[num_put++] = next;
    return 0;
}

int cuLaunchHostFunc(void *stream, void (*function)(void *), void *argument) {
    (void)stream;
    return add((Put){function, argument, 0, 0});
}

int cuMemcpyDtoHAsync_v2(void *host, uint64_t source, size_t num_bytes, void *stream) {
    (void)stream;
    return add((Put){0, host, (const void *)source, num_bytes});
}

int cuMemcpyHtoDAsync_v2(uint64_t target, const void *host, size_t num_bytes, void *stream) {
    (void)stream;
    return add((Put){0, (void *)target, host, num_bytes});
}

int cuGetErrorString(int code, const char **text) {
    *text = code == 2 ? "out of memory" : "unknown";
    return 0;
}

void run_stream(int forget) {
    for (int i = 0; i < num_put; i++) {
        if (put[i].function)
            put[i].function(put[i].target);
        else
            memcpy(put[i].target, put[i].source, put[i].num_bytes);
    }
    if (forget) num_put = 0;
}
