// A file system that ignores case, played for one process: preloaded, it spells every path below $IGNORE_CASE as the directories
// there list it.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *spelled(const char *path, char *to) {
    const char *root = getenv("IGNORE_CASE");
    size_t end = root ? strlen(root) : 0;
    if (!path || !end || strncmp(path, root, end) || strlen(path) >= PATH_MAX) return path;
    strcpy(to, path);
    while (to[end] == '/') {
        char *name = to + end + 1, *next = strchrnul(name, '/'), kept = *next;
        to[end] = 0, *next = 0;
        DIR *directory = REAL(opendir)(to);
        const char *found = 0;
        static __thread char other[NAME_MAX + 1];
        for (struct dirent *entry; directory && (entry = readdir(directory));)
            if (!strcmp(entry->d_name, name)) { found = 0; break; }
            else if (!strcasecmp(entry->d_name, name)) found = strcpy(other, entry->d_name);
        if (directory) closedir(directory);
        if (found) strcpy(name, found);
        to[end] = '/', *next = kept;
        end = next - to;
    }
    return to;
}

#define HERE char to[PATH_MAX + NAME_MAX]; path = spelled(path, to)
#define MODE int mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }

int open(const char *path, int flags, ...) { HERE; MODE; return REAL(open)(path, flags, mode); }
int open64(const char *path, int flags, ...) { HERE; MODE; return REAL(open64)(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { HERE; MODE; return REAL(openat)(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { HERE; MODE; return REAL(openat64)(at, path, flags, mode); }
DIR *opendir(const char *path) { HERE; return REAL(opendir)(path); }
int stat(const char *path, struct stat *into) { HERE; return REAL(stat)(path, into); }
int lstat(const char *path, struct stat *into) { HERE; return REAL(lstat)(path, into); }
int stat64(const char *path, struct stat64 *into) { HERE; return REAL(stat64)(path, into); }
int lstat64(const char *path, struct stat64 *into) { HERE; return REAL(lstat64)(path, into); }
int statx(int at, const char *path, int flags, unsigned mask, struct statx *into) { HERE; return REAL(statx)(at, path, flags, mask, into); }
int mkdir(const char *path, mode_t mode) { HERE; return REAL(mkdir)(path, mode); }
int unlink(const char *path) { HERE; return REAL(unlink)(path); }
int rename(const char *path, const char *new) { char new_to[PATH_MAX + NAME_MAX]; HERE; return REAL(rename)(path, spelled(new, new_to)); }
