/* Preloaded (LD_PRELOAD), it makes one allocation of one library fail: the n-th of those that the code between two
 * addresses asks for. glibc only. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_realloc(void *, size_t);

static uintptr_t from, to;
static atomic_long left, seen;

/* From now on: allocation number `n` (from 0; negative: none) by code in [begin, end) fails. */
void fail_allocation(void *begin, void *end, long n) {
    from = (uintptr_t)begin;
    to = (uintptr_t)end;
    left = n;
    seen = 0;
}
/* How many there were since. */
long allocations_seen(void) { return seen; }

static int fails(void *caller) {
    if ((uintptr_t)caller < from || (uintptr_t)caller >= to) return 0;
    atomic_fetch_add(&seen, 1);
    return atomic_fetch_sub(&left, 1) == 0;
}

void *malloc(size_t bytes) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(bytes); }
void *realloc(void *p, size_t bytes) { return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(p, bytes); }
void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset) {
    if (fails(__builtin_return_address(0))) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
}
