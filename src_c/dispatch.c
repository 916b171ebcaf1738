#include "dispatch.h"

#include <stdatomic.h>
#include <string.h>
#ifdef FC_HAVE_X86
#include <cpuid.h>
#endif

/* FC_HAVE_X86, FC_HAVE_NEON: the build compiled the targets of x86-64, of AArch64. An x86 CPU's word counts only with
 * the operating system's: GCC's builtin looks at both (CPUID and XCR0). Every AArch64 CPU has NEON. */
typedef struct target {
    const fc_kernels *kernels;
    int (*runs_here)(void);
} target;

static int always(void) { return 1; }

#ifdef FC_HAVE_X86
static int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
/* Intel's from Sapphire Rapids on, which are known by AVX512-FP16. Older ones were slowed down against Downfall. */
static int has_fast_gathers(void) {
    unsigned a, b, c, d = 0;
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 23 & 1;
}
static int is_zen_5(void) { /* or a later one */
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_is("amd") && __get_cpuid(1, &a, &b, &c, &d) && (a >> 8 & 15) + (a >> 20 & 255) >= 0x1a;
}
/* AMD's before Zen 2, which say that they have a data path of 128 bits and none of 256, fill vectors too slowly; and those from
 * Zen 5 on start eight instructions a cycle, more than shuffles can use. */
static int has_fast_scalars(void) {
    unsigned a, b, c, d;
    return (__get_cpuid(0x8000001a, &a, &b, &c, &d) && (a & 5) == 1) || is_zen_5();
}
static int has_split_indexed(void) {
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
}
/* Zen 4 takes two cycles to each; Intel's have half as many units for them. */
static int has_long_shuffles(void) { return is_zen_5(); }
static int has_byte_tables(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vbmi") != 0;
}
#else
static int has_fast_gathers(void) { return 0; }
static int has_fast_scalars(void) { return 0; }
static int has_split_indexed(void) { return 0; }
static int has_long_shuffles(void) { return 0; }
static int has_byte_tables(void) { return 0; }
#endif

/* Best first. scalar comes last: right, and slow. */
static const target targets[] = {
#ifdef FC_HAVE_X86
    {&fc_kernels__avx512, has_avx512},
    {&fc_kernels__avx2, has_avx2},
#endif
#ifdef FC_HAVE_NEON
    {&fc_kernels__neon, always},
#endif
    {&fc_kernels__baseline, always},
    {&fc_kernels__scalar, always},
};
enum { TARGETS = sizeof targets / sizeof *targets };

static const char *available[TARGETS + 1];
int fc_fast_gathers, fc_fast_scalars, fc_split_indexed, fc_long_shuffles, fc_byte_tables;
static _Atomic(const fc_kernels *) current, shorter; /* shorter: than avx512's vectors, while it is available */
/* A thread may compute with a target of its own; how many do is counted, so that nobody else pays for looking it up. */
static atomic_int own_targets;
static _Thread_local const fc_kernels *own;

/* Once, when the library is loaded and before any thread of ours can run: no lazy initialisation that races. */
__attribute__((constructor)) static void find_targets(void) {
    int n = 0;
    fc_fast_gathers = has_fast_gathers();
    fc_fast_scalars = has_fast_scalars();
    fc_split_indexed = has_split_indexed();
    fc_long_shuffles = has_long_shuffles();
    fc_byte_tables = has_byte_tables();
    for (int i = 0; i < TARGETS; i++)
        if (targets[i].runs_here()) {
            if (!n) current = targets[i].kernels;
#ifdef FC_HAVE_X86
            if (targets[i].kernels == &fc_kernels__avx2) shorter = targets[i].kernels;
#endif
            available[n++] = targets[i].kernels->isa;
        }
}

static const fc_kernels *kernels_of(const char *name) {
    int there = 0;
    for (const char *const *isa = available; *isa; isa++) there |= !strcmp(*isa, name);
    for (int i = 0; i < TARGETS; i++)
        if (there && !strcmp(targets[i].kernels->isa, name)) return targets[i].kernels;
    return NULL;
}

/* Of this thread alone, or NULL. */
static const fc_kernels *asked_for(void) {
    return atomic_load_explicit(&own_targets, memory_order_relaxed) ? own : NULL;
}

const fc_kernels *fc_current(void) {
    const fc_kernels *asked = asked_for();
    return asked ? asked : current;
}
const fc_kernels *fc_shorter(const fc_kernels *kernels) {
#ifdef FC_HAVE_X86
    /* Who asked for a target for this thread alone wants that one: to test it, say. */
    if (kernels == &fc_kernels__avx512 && !asked_for()) return shorter;
#endif
    (void)kernels;
    return NULL;
}
const char *const *fc_available_isas(void) { return available; }
const char *fc_current_isa(void) { return fc_current()->isa; }
int fc_numeric_block(void) { return FC_BLOCK; }

int fc_select_isa(const char *name) {
    const fc_kernels *kernels = kernels_of(name);
    if (!kernels) return -1;
    current = kernels;
    return 0;
}

int fc_select_isa_here(const char *name) {
    const fc_kernels *kernels = name ? kernels_of(name) : NULL;
    if (name && !kernels) return -1;
    atomic_fetch_add(&own_targets, (kernels != NULL) - (own != NULL));
    own = kernels;
    return 0;
}

int fc_drop_isa(const char *name) {
    const fc_kernels *kernels = kernels_of(name);
    if (!kernels || !available[1]) return -1;
    int at = 0;
    while (strcmp(available[at], name)) at++;
    for (; available[at]; at++) available[at] = available[at + 1];
    if (current == kernels) current = kernels_of(available[0]);
    if (shorter == kernels) shorter = NULL;
    return 0;
}

const char *const *fc_kernel_names(void) {
    static const char *const names[] = {
#define FC_KERNEL(name) #name,
#include "kernels.def"
#undef FC_KERNEL
        NULL};
    return names;
}
