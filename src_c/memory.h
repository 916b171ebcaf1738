/* Aligned memory. Everything that can fail to be allocated is allocated through here. */
#ifndef FC_MEMORY_H
#define FC_MEMORY_H
#include <stddef.h>

/* 64-byte aligned, uninitialised; NULL if there is none. */
void *fc_alloc(size_t bytes);
void fc_free(void *p);
/* As realloc: what stood in p, or its first `bytes`, stands in the result; NULL, and p as it was, if there is no memory. With p
 * NULL as fc_alloc. */
void *fc_realloc(void *p, size_t bytes);
/* Of an array that a caller gets: in huge pages from 4 MiB on, as numpy asks for them unless it is told not to. */
void fc_prefer_huge(void *p, size_t bytes);

/* The same for what is kept: from 2 MiB on memory of its own, in huge pages where the system has them. */
void *fc_map(size_t bytes);
void fc_unmap(void *p, size_t bytes);

/* Bytes of one core's L1 for data; a careful guess where the system does not say. */
size_t fc_l1_bytes(void);
/* What most CPUs have; more is large. */
enum { FC_SMALL_L1 = 32 << 10 };
/* Bytes of one core's L2 cache, 2 MiB at most; a careful guess where the system does not say. */
size_t fc_l2_bytes(void);
/* Of the L3 that cores share; a guess likewise. */
size_t fc_l3_bytes(void);

/* The bytes from row to row of a matrix of ours whose rows take `row` of them: off multiples of 1024, or rows would crowd into
 * few sets of the caches. */
static inline ptrdiff_t fc_apart(ptrdiff_t row) { return row % 1024 == 0 ? row + 64 : row; }

#endif
