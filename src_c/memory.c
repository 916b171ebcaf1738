#define _GNU_SOURCE
#include "memory.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#ifdef __SANITIZE_ADDRESS__ /* which is to see the first byte behind the end */
void *fc_alloc(size_t bytes) {
    void *p = NULL;
    return posix_memalign(&p, 64, bytes ? bytes : 1) ? NULL : p;
}

void *fc_realloc(void *p, size_t bytes) { return p ? realloc(p, bytes) : fc_alloc(bytes); }
void fc_free(void *p) { free(p); }
#else
/* Where the block of malloc begins stands right before what we give out. glibc's own aligned blocks come with cuttings before
 * and behind, which it sweeps up at the next large one: 4 % of a small training step. */
static void **start_of(void *p) { return (void **)p - 1; }

static char *aligned(char *start) { return start + 64 - (uintptr_t)start % 64; }

void *fc_alloc(size_t bytes) {
    char *start = bytes > SIZE_MAX - 64 ? NULL : malloc(bytes + 64), *p;
    if (!start) return NULL;
    p = aligned(start);
    *start_of(p) = start;
    return p;
}

void *fc_realloc(void *old, size_t bytes) {
    void *start = old ? *start_of(old) : NULL;
    const uintptr_t skip = (uintptr_t)old - (uintptr_t)start;
    char *fresh = bytes > SIZE_MAX - 64 ? NULL : realloc(start, bytes + 64), *p;
    if (!fresh) return NULL;
    p = aligned(fresh);
    if (old && p != fresh + skip) memmove(p, fresh + skip, bytes);
    *start_of(p) = fresh;
    return p;
}

void fc_free(void *p) {
    if (p) free(*start_of(p));
}
#endif

#if defined(__linux__) && defined(MADV_HUGEPAGE)
/* A panel walk touches a new 4 KiB page every 16 steps; with huge pages the TLB covers it. Memory from malloc would not
 * do: what was in use before keeps its small pages. */
static const size_t huge = (size_t)2 << 20;

void *fc_map(size_t bytes) {
    if (bytes < huge) return fc_alloc(bytes);
    if (bytes > SIZE_MAX - 2 * huge) return NULL;
    const size_t size = (bytes + huge - 1) / huge * huge;
    char *p = mmap(NULL, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    /* Trimmed to the aligned part. */
    const size_t skip = (huge - (uintptr_t)p % huge) % huge;
    if (skip) munmap(p, skip);
    if (skip < huge) munmap(p + skip + size, huge - skip);
    madvise(p + skip, size, MADV_HUGEPAGE);
    return p + skip;
}

void fc_prefer_huge(void *p, size_t bytes) {
    const size_t page = 4096, skip = (page - (uintptr_t)p % page) % page;
    if (bytes >= 2 * huge) madvise((char *)p + skip, (bytes - skip) / page * page, MADV_HUGEPAGE);
}

void fc_unmap(void *p, size_t bytes) {
    if (bytes < huge) fc_free(p);
    else if (p) munmap(p, (bytes + huge - 1) / huge * huge);
}
#else
void fc_prefer_huge(void *p, size_t bytes) {
    (void)p;
    (void)bytes;
}
void *fc_map(size_t bytes) { return fc_alloc(bytes); }
void fc_unmap(void *p, size_t bytes) {
    (void)bytes;
    fc_free(p);
}
#endif

size_t fc_l1_bytes(void) {
    static _Atomic size_t known;
    const size_t bytes = known;
    if (bytes) return bytes;
    long said = 0;
#ifdef _SC_LEVEL1_DCACHE_SIZE
    said = sysconf(_SC_LEVEL1_DCACHE_SIZE);
#endif
    return known = said < 16 << 10 ? 32 << 10 : (size_t)said;
}

size_t fc_l2_bytes(void) {
    static _Atomic size_t known;
    size_t bytes = known;
    if (bytes) return bytes;
    long said = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    said = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    if (said < 128 << 10) said = 512 << 10;
    return known = said < 2 << 20 ? (size_t)said : (size_t)2 << 20; /* a larger one is shared by several cores */
}

/* Not sysconf's figure, which on some CPUs is that of all the caches of a socket together. */
size_t fc_l3_bytes(void) {
    static _Atomic size_t known;
    size_t bytes = known;
    if (bytes) return bytes;
    unsigned long kib = 0;
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
    if (f) {
        if (fscanf(f, "%luK", &kib) != 1) kib = 0;
        fclose(f);
    }
    return known = kib ? (size_t)kib << 10 : 16 * fc_l2_bytes();
}
