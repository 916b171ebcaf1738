#include "dispatch.h"

#include <string.h>

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
static const fc_kernels *current;

/* Once, when the library is loaded and before any thread of ours can run: no lazy initialisation that races. */
__attribute__((constructor)) static void find_targets(void) {
    int n = 0;
    for (int i = 0; i < TARGETS; i++)
        if (targets[i].runs_here()) {
            if (!n) current = targets[i].kernels;
            available[n++] = targets[i].kernels->isa;
        }
}

const fc_kernels *fc_current(void) { return current; }
const char *const *fc_available_isas(void) { return available; }
const char *fc_current_isa(void) { return current->isa; }
int fc_numeric_block(void) { return FC_BLOCK; }

int fc_select_isa(const char *name) {
    for (int i = 0; i < TARGETS; i++)
        if (!strcmp(targets[i].kernels->isa, name) && targets[i].runs_here()) {
            current = targets[i].kernels;
            return 0;
        }
    return -1;
}

const char *const *fc_kernel_names(void) {
    static const char *const names[] = {
#define FC_KERNEL(name) #name,
#include "kernels.def"
#undef FC_KERNEL
        NULL};
    return names;
}
