/* A CUDA driver's memory calls on host memory: what is unmapped cannot be read, and new memory is not zero. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GRAIN 65536
#define MOST 65536

static size_t left = (size_t)1 << 40;
static size_t sizes[MOST];
static int fds[MOST], count, pins;

void set_left(size_t bytes) { left = bytes; }
size_t get_left(void) { return left; }
int num_pinned(void) { return pins; }

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 102; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxGetCurrent(void **context) { *context = NULL; return 0; }
int cuCtxSetCurrent(void *context) { return context != (void *)1; }
int cuGetErrorString(int code, const char **text) { *text = code == 2 ? "out of memory" : "invalid value"; return 0; }
int cuMemGetAllocationGranularity(size_t *size, const int *wanted, int flags)
{
    *size = GRAIN;
    return wanted[0] != 1 || wanted[2] != 1; /* pinned, on a device */
}

int cuMemAddressReserve(uint64_t *address, size_t size, size_t alignment, uint64_t wanted, uint64_t flags)
{
    void *found = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *address = (uint64_t)found;
    return found == MAP_FAILED || !size || size % GRAIN;
}

int cuMemAddressFree(uint64_t address, size_t size) { return munmap((void *)address, size); }

int cuMemCreate(uint64_t *handle, size_t size, const int *wanted, uint64_t flags)
{
    if (size > left)
        return 2;
    if (!size || size % GRAIN || count == MOST)
        return 1;
    left -= size;
    fds[count] = memfd_create("card", 0);
    sizes[count] = size;
    if (ftruncate(fds[count], size))
        return 1;
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[count], 0);
    memset(pages, 0xA5, size);
    munmap(pages, size);
    *handle = count++;
    return 0;
}

int cuMemRelease(uint64_t handle)
{
    left += sizes[handle];
    return close(fds[handle]);
}

int cuMemMap(uint64_t address, size_t size, size_t offset, uint64_t handle, uint64_t flags)
{
    return mmap((void *)address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, fds[handle], offset) == MAP_FAILED;
}

int cuMemUnmap(uint64_t address, size_t size)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    return mmap((void *)address, size, PROT_NONE, flags, -1, 0) == MAP_FAILED;
}

int cuMemSetAccess(uint64_t address, size_t size, const int *access, size_t number)
{
    return access[2] != 3 || number != 1 || mprotect((void *)address, size, PROT_READ | PROT_WRITE);
}

int cuMemHostRegister_v2(uint64_t address, size_t size, unsigned flags) { pins++; return 0; }
int cuMemHostUnregister(uint64_t address) { pins--; return 0; }
