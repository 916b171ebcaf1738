#define _GNU_SOURCE
#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

void *fc_alloc(size_t bytes) {
    const size_t huge = (size_t)2 << 20;
    const size_t align = bytes >= 2 * huge ? huge : 64;
    void *p = NULL;
    if (bytes > SIZE_MAX - align || posix_memalign(&p, align, bytes ? bytes : 1)) return NULL;
#ifdef MADV_HUGEPAGE
    /* A panel walk touches a new 4 KiB page every 16 steps; with huge pages the TLB covers it. Advice only. */
    if (align == huge) madvise(p, bytes - bytes % huge, MADV_HUGEPAGE);
#endif
    return p;
}

void fc_free(void *p) { free(p); }

size_t fc_l2_bytes(void) {
    long bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes >= 128 << 10 ? (size_t)bytes : (size_t)512 << 10;
}
