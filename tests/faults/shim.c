/* Makes the Nth change that a program makes to a folder go wrong, without a word of it in the program:
 * loaded before it (LD_PRELOAD), this stands between it and the C library.
 *
 *   SHIM_ROOT   the folder; what is changed elsewhere is let through and not counted
 *   SHIM_LOG    a file that gets a line for every change: KIND, a tab, PATH
 *   SHIM_AT     the number of the change that goes wrong, from 1; 0 for none
 *   SHIM_HOW    in which way:
 *     eio       this one fails with an error of the medium
 *     eintr     a write is interrupted before it wrote a byte
 *     short     a write takes half of what it was given, as it may
 *     enospc    the disk is full: half a write, and from then on nothing that needs room
 *     erofs     the disk is read-only from now on
 *     eacces    from now on nothing may be opened for writing, made, renamed or removed
 *     kill      the program dies before it
 *     torn      the program dies in the middle of a write, or right after anything else
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum kind { OPEN, WRITE, SYNC, CUT, RENAME, REMOVE, MAKE };
static const char *const KINDS[] = {"open", "write", "sync", "cut", "rename", "remove", "make"};

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static char *open_paths[FILES]; /* of files below the root that are open for writing */
static const char *root, *how = "";
static long at, count;
static int log_file = -1;

__attribute__((constructor)) static void start(void) {
    root = getenv("SHIM_ROOT");
    if (getenv("SHIM_HOW")) how = getenv("SHIM_HOW");
    if (getenv("SHIM_AT")) at = atol(getenv("SHIM_AT"));
    const char *log = getenv("SHIM_LOG");
    if (log) log_file = REAL(open64)(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
}

static int below_root(const char *path) {
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static const char *path_of(int file) {
    return file >= 0 && file < FILES ? open_paths[file] : NULL;
}

static int is(const char *name) {
    return strcmp(how, name) == 0;
}

/* What a change comes to: 0 as always, an error, or one of these. */
enum { HALF = -1, HALF_THEN_DEATH = -2, DEATH_AFTER = -3 };

/* Whether this kind of change fails on a disk that has been in that state since change `at`. */
static int lasting(enum kind kind) {
    if (is("erofs")) return EROFS;
    if (is("eacces")) return kind == OPEN || kind >= RENAME ? EACCES : 0;
    if (is("enospc")) return kind == OPEN || kind == WRITE || kind == MAKE ? ENOSPC : 0;
    return 0;
}

/* Counts a change and says what becomes of it. */
static int verdict(enum kind kind, const char *path) {
    pthread_mutex_lock(&guard);
    long number = ++count;
    if (log_file >= 0) dprintf(log_file, "%s\t%s\n", KINDS[kind], path);
    pthread_mutex_unlock(&guard);
    if (at == 0 || number < at) return 0;
    if (number > at) return lasting(kind);
    if (is("kill")) raise(SIGKILL);
    if (is("torn")) return kind == WRITE ? HALF_THEN_DEATH : DEATH_AFTER;
    if (is("eio")) return EIO;
    if (is("eintr")) return kind == WRITE ? EINTR : 0;
    if (is("short") || is("enospc")) return kind == WRITE ? HALF : lasting(kind);
    return lasting(kind);
}

static int fails(int verdict) {
    if (verdict > 0) errno = verdict;
    return verdict > 0;
}

static int done(int verdict, int result) {
    if (verdict == DEATH_AFTER) raise(SIGKILL);
    return result;
}

#define CHANGE(kind, path, call)              \
    int found = verdict(kind, path);          \
    return fails(found) ? -1 : done(found, call)

static int opened(const char *path, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY && below_root(path);
    int found = writes ? verdict(OPEN, path) : 0;
    if (fails(found)) return -1;
    int file = done(found, REAL(open64)(path, flags, mode));
    if (writes && file >= 0 && file < FILES) open_paths[file] = strdup(path);
    return file;
}

static mode_t mode_of(int flags, va_list more) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return opened(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return opened(path, flags, mode);
}

int close(int file) {
    if (path_of(file)) {
        free(open_paths[file]);
        open_paths[file] = NULL;
    }
    return REAL(close)(file);
}

ssize_t write(int file, const void *bytes, size_t size) {
    const char *path = path_of(file);
    int found = path ? verdict(WRITE, path) : 0;
    if (fails(found)) return -1;
    size_t part = found == HALF || found == HALF_THEN_DEATH ? (size + 1) / 2 : size;
    ssize_t written = REAL(write)(file, bytes, part);
    if (found == HALF_THEN_DEATH) raise(SIGKILL);
    return written;
}

ssize_t writev(int file, const struct iovec *parts, int number) {
    /* A write may always take less than it was given: here the first part. */
    if (path_of(file) && number > 0) return write(file, parts[0].iov_base, parts[0].iov_len);
    return REAL(writev)(file, parts, number);
}

static int is_folder(int file) {
    struct stat status;
    return fstat(file, &status) == 0 && S_ISDIR(status.st_mode);
}

/* A folder is synced through a handle that is open for reading: its path comes from the system. */
int fsync(int file) {
    char link[64], folder[PATH_MAX];
    const char *path = path_of(file);
    if (!path && is_folder(file)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t length = readlink(link, folder, sizeof folder - 1);
        folder[length < 0 ? 0 : length] = 0;
        path = below_root(folder) ? folder : NULL;
    }
    if (!path) return REAL(fsync)(file);
    CHANGE(SYNC, path, REAL(fsync)(file));
}

int fdatasync(int file) {
    const char *path = path_of(file);
    if (!path) return REAL(fdatasync)(file);
    CHANGE(SYNC, path, REAL(fdatasync)(file));
}

int ftruncate64(int file, off64_t length) {
    const char *path = path_of(file);
    if (!path) return REAL(ftruncate64)(file, length);
    CHANGE(CUT, path, REAL(ftruncate64)(file, length));
}

int rename(const char *from, const char *to) {
    if (!below_root(to)) return REAL(rename)(from, to);
    CHANGE(RENAME, to, REAL(rename)(from, to));
}

int unlink(const char *path) {
    if (!below_root(path)) return REAL(unlink)(path);
    CHANGE(REMOVE, path, REAL(unlink)(path));
}

int rmdir(const char *path) {
    if (!below_root(path)) return REAL(rmdir)(path);
    CHANGE(REMOVE, path, REAL(rmdir)(path));
}

int mkdir(const char *path, mode_t mode) {
    if (!below_root(path)) return REAL(mkdir)(path, mode);
    CHANGE(MAKE, path, REAL(mkdir)(path, mode));
}
