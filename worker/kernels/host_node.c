/* The part of a GPU's stream that the CPU computes: a host node hands a call of experts, or copies, to one thread, which has
 * the team of OpenMP's threads for as long as the process lives, and waits for it. No Python takes part.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "experts.h"

#define KEPT_TIMES 4096 /* calls whose times are kept */
#define SPINS 20000     /* looks for the next call, about 0.2 ms, before the thread sleeps: waking takes some 0.05 ms */

/* One thread, and what it computes. */
typedef struct {
    int64_t num_calls;            /* that have ended */
    int64_t times[KEPT_TIMES][5]; /* of call i at i % KEPT_TIMES: begin and end in nanoseconds since 1970, its rows (-1: copies),
                                     when the node began and when it ended */
    void (*compute)(void *);
    void *call; /* what it is given; null: there is none */
    pthread_mutex_t lock;
    pthread_cond_t posted, ended;
    pthread_t thread;
    int is_closing;
} HostWorker;

/* What a host node is given. */
typedef struct {
    ExpertsCall call;
    void (*compute)(void *);      /* compute_experts */
    HostWorker *worker;
    const int32_t *num_rows;      /* where the rows of the step are told, if they are fewer than the call's; may be null */
    const uint8_t *is_elsewhere;  /* [experts]: 1 where another device computes the expert; may be null */
    int64_t *uses;                /* [experts], counted up by the choices of all rows; may be null */
    int64_t *chosen;              /* of the call; choices of experts elsewhere become -1 */
    int32_t num_experts, is_once; /* a node that is_once frees itself */
} HostNode;

/* Copies between places of host memory, by all threads. It is used once, and frees itself. */
#define MOST_PARTS 16
typedef struct {
    HostWorker *worker;
    int64_t num_parts, num_threads;
    struct {
        char *target;
        const char *source;
        int64_t num_bytes;
    } parts[MOST_PARTS];
} HostCopy;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* The next call, null at the end. */
static void *next_call(HostWorker *worker) {
    for (int i = 0; i < SPINS && !__atomic_load_n(&worker->call, __ATOMIC_ACQUIRE); i++) relax();
    pthread_mutex_lock(&worker->lock);
    while (!worker->call && !worker->is_closing) pthread_cond_wait(&worker->posted, &worker->lock);
    pthread_mutex_unlock(&worker->lock);
    return worker->call;
}

static void *work(void *given) {
    HostWorker *worker = given;
    void *call;
    while ((call = next_call(worker))) {
        int64_t *times = worker->times[worker->num_calls % KEPT_TIMES];
        times[0] = now();
        worker->compute(call);
        times[1] = now();
        pthread_mutex_lock(&worker->lock);
        worker->num_calls++;
        __atomic_store_n(&worker->call, NULL, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&worker->ended);
        pthread_mutex_unlock(&worker->lock);
    }
    return NULL;
}

/* Starts a worker's thread, and writes the worker's address to `place`: null if there can be none. */
void open_host_worker(HostWorker **place) {
    HostWorker *worker = calloc(1, sizeof(HostWorker));
    *place = NULL;
    if (!worker) return;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->posted, NULL);
    pthread_cond_init(&worker->ended, NULL);
    if (pthread_create(&worker->thread, NULL, work, worker))
        free(worker);
    else
        *place = worker;
}

/* Ends the thread. No node of this worker may run any more. */
void close_host_worker(HostWorker *worker) {
    pthread_mutex_lock(&worker->lock);
    worker->is_closing = 1;
    pthread_cond_signal(&worker->posted);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    free(worker);
}

/* Has the worker compute, after what others gave it, and waits until it has. */
static void post(HostWorker *worker, void (*compute)(void *), void *call, int64_t num_rows) {
    const int64_t began = now();
    pthread_mutex_lock(&worker->lock);
    while (worker->call) pthread_cond_wait(&worker->ended, &worker->lock);
    int64_t *times = worker->times[worker->num_calls % KEPT_TIMES];
    times[2] = num_rows;
    times[3] = began;
    worker->compute = compute;
    __atomic_store_n(&worker->call, call, __ATOMIC_RELEASE);
    pthread_cond_signal(&worker->posted);
    while (__atomic_load_n(&worker->call, __ATOMIC_ACQUIRE) == call) pthread_cond_wait(&worker->ended, &worker->lock);
    times[4] = now();
    pthread_mutex_unlock(&worker->lock);
}

/* Counts all choices, and takes out those of experts that are elsewhere. */
static void take_out(const HostNode *node, long num_choices) {
    for (long i = 0; i < num_choices; i++) {
        int64_t expert = node->chosen[i];
        if (expert < 0 || expert >= node->num_experts) continue;
        if (node->uses) node->uses[expert]++;
        if (node->is_elsewhere && node->is_elsewhere[expert]) node->chosen[i] = -1;
    }
}

/* The host node: a CUhostFn. */
void run_host_node(HostNode *node) {
    HostWorker *worker = node->worker;
    ExpertsCall call = node->call;
    if (node->num_rows) call.num_rows = smaller(call.num_rows, *(volatile const int32_t *)node->num_rows);
    take_out(node, (long)call.num_rows * call.top_k);
    post(worker, node->compute, &call, call.num_rows);
    if (node->is_once) free(node);
}

static void copy_parts(void *given) {
    const HostCopy *copy = given;
#pragma omp parallel num_threads((int)copy->num_threads)
    {
        const int64_t count = omp_get_num_threads(), own = omp_get_thread_num();
        for (int64_t i = 0; i < copy->num_parts; i++) {
            const int64_t bytes = copy->parts[i].num_bytes, each = (bytes / count + 63) / 64 * 64, start = own * each;
            if (start < bytes)
                memcpy(copy->parts[i].target + start, copy->parts[i].source + start, start + each < bytes ? each : bytes - start);
        }
    }
}

/* A CUhostFn. */
void run_host_copy(HostCopy *copy) {
    post(copy->worker, copy_parts, copy, -1);
    free(copy);
}

/* Writes the address of a copy of `size` bytes, which belongs to who runs it, to `place`; null if memory is out. */
void keep_for_once(const void *given, int64_t size, void **place) {
    if ((*place = malloc(size))) memcpy(*place, given, size);
}

/* Computes nothing: to measure what the way to the CPU and back takes. */
void compute_nothing(void *call) { (void)call; }
