/* NVIDIA's management library of a machine with two cards, as far as it is asked. The process of which FAKE_NVML_PID is
   the id holds 3 GiB on the first card. Entry points and structures: NVML API reference. */
#include <stdlib.h>
#include <string.h>

#define GIB (1ULL << 30)
enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute_instance; } process_t;

static unsigned indices[] = {0, 1};

static unsigned index_of(void *card) { return *(unsigned *)card; }

int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "an error of the library"; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) { *card = &indices[index]; return SUCCESS; }

int nvmlDeviceGetName(void *card, char *name, unsigned length) {
    strncpy(name, "NVIDIA H100 80GB HBM3", length);
    return index_of(card) ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetUUID(void *card, char *uuid, unsigned length) {
    strncpy(uuid, index_of(card) ? "GPU-bbbb" : "GPU-aaaa", length);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *card, memory_t *memory) {
    memory->total = (index_of(card) ? 24 : 80) * GIB;
    memory->used = (index_of(card) ? 1 : 4) * GIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *count, process_t *found) {
    if (index_of(card)) { *count = 0; return SUCCESS; }
    if (*count < 2 || found == NULL) { *count = 2; return INSUFFICIENT_SIZE; }
    memset(found, 0, 2 * sizeof *found);
    found[0].pid = 1, found[0].used = GIB;
    found[1].pid = (unsigned)atoi(getenv("FAKE_NVML_PID")), found[1].used = 3 * GIB;
    *count = 2;
    return SUCCESS;
}
