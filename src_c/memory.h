/* Aligned memory. Everything that can fail to be allocated is allocated through here. */
#ifndef FC_MEMORY_H
#define FC_MEMORY_H
#include <stddef.h>

/* 64-byte aligned, uninitialised; NULL if there is none. Large ones ask for huge pages, where the system has them. */
void *fc_alloc(size_t bytes);
void fc_free(void *p);

/* Bytes of one core's L2 cache; a careful guess where the system does not say. */
size_t fc_l2_bytes(void);

#endif
