/* Preloaded, it makes the n-th allocation of the process fail, from when it is armed. */
#include <errno.h>
#include <stddef.h>

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static long countdown = -1; /* -1: not armed */
static long counted = 0;
static int lasting = 0; /* whether all that follow fail, too */

void arm_malloc(long n, int all_that_follow) { counted = 0; lasting = all_that_follow; countdown = n; }
long disarm_malloc(void) { countdown = -1; return counted; }

static int refuse(void) {
    if (countdown < 0) return 0;
    counted++;
    if (counted < countdown || (counted > countdown && !lasting)) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n) { return refuse() ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return refuse() ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return refuse() ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t alignment, size_t n) { return refuse() ? NULL : __libc_memalign(alignment, n); }
int posix_memalign(void **p, size_t alignment, size_t n) {
    if (refuse()) return ENOMEM;
    *p = __libc_memalign(alignment, n);
    return *p ? 0 : ENOMEM;
}
