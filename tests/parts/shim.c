/* Preloaded into a process of the product: a disk that is full, read-only or broken below one directory, and a clock that is wrong.

The control file is mapped: what the test writes there counts at once (parts/shim.py has the same layout). A sync that fails takes
what was written since the last one that succeeded away with it, as the kernel does: it marks the pages clean, and they may go. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int32_t write_error, sync_error, open_error, rename_error; /* errno, 0: works */
    int32_t room;                                               /* bytes that may still be written before write_error, -1: none */
    int32_t failed;                                             /* calls that failed so far */
    int64_t wall_us;                                            /* added to the wall clock ... */
    int64_t drift_ppm;                                          /* ... which also runs so much faster ... */
    int64_t drift_from_us;                                      /* ... since this moment of the monotonic clock */
};

#define DESCRIPTORS 4096
static struct control *control;
static const char *below;
static off_t synced[DESCRIPTORS];

__attribute__((constructor)) static void begin(void) {
    below = getenv("SHIM_BELOW");
    int file = open(getenv("SHIM_CONTROL"), O_RDWR | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        abort();
    close(file);
    control = mapped;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_below(const char *path) {
    return control && below && *below && strncmp(path, below, strlen(below)) == 0;
}

static int file_is_below(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

static int fail(int error) {
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = error;
    return -1;
}

ssize_t write(int file, const void *bytes, size_t length) {
    if (control && control->write_error && file_is_below(file)) {
        int32_t room = control->room;
        if (room <= 0)
            return fail(control->write_error);
        if (length > (size_t)room) /* a short count, and the next call fails */
            length = (size_t)room;
        control->room -= (int32_t)length;
    }
    return REAL(write)(file, bytes, length);
}

static int sync_with(int (*real)(int), int file) {
    if (!control || !file_is_below(file))
        return real(file);
    struct stat now;
    int regular = file < DESCRIPTORS && fstat(file, &now) == 0 && S_ISREG(now.st_mode);
    if (control->sync_error) {
        if (regular && ftruncate(file, synced[file]) != 0)
            abort();
        return fail(control->sync_error);
    }
    int result = real(file);
    if (result == 0 && regular)
        synced[file] = now.st_size;
    return result;
}

int fsync(int file) { return sync_with(REAL(fsync), file); }
int fdatasync(int file) { return sync_with(REAL(fdatasync), file); }

static int opened(int file) {
    if (file >= 0 && file < DESCRIPTORS)
        synced[file] = 0;
    return file;
}

static int must_not_open(const char *path, int flags) {
    return control && control->open_error && (flags & (O_CREAT | O_WRONLY | O_RDWR)) && is_below(path);
}

#define OPEN(name)                                                                                                                         \
    int name(const char *path, int flags, ...) {                                                                                           \
        va_list more;                                                                                                                      \
        va_start(more, flags);                                                                                                             \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                                             \
        va_end(more);                                                                                                                      \
        return must_not_open(path, flags) ? fail(control->open_error) : opened(REAL(name)(path, flags, mode));                             \
    }
OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to) {
    if (control && control->rename_error && is_below(from))
        return fail(control->rename_error);
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    if (control && control->rename_error && is_below(path))
        return fail(control->rename_error);
    return REAL(unlink)(path);
}

static int64_t monotonic_us(void) {
    struct timespec now;
    REAL(clock_gettime)(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (result == 0 && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t drifted_us = control->drift_ppm ? (monotonic_us() - control->drift_from_us) * control->drift_ppm / 1000000 : 0;
        int64_t us = now->tv_sec * INT64_C(1000000) + now->tv_nsec / 1000 + control->wall_us + drifted_us;
        now->tv_sec = us / 1000000;
        now->tv_nsec = us % 1000000 * 1000;
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
