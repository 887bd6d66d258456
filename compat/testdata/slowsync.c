/* Makes syncs of files slow: as many milliseconds as the file named by SLOWSYNC says, now. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_as_told(void) {
    const char *path = getenv("SLOWSYNC");
    FILE *file = path ? fopen(path, "re") : NULL;
    long millis = 0;
    if (file) {
        if (fscanf(file, "%ld", &millis) != 1) millis = 0;
        fclose(file);
    }
    struct timespec pause = {millis / 1000, millis % 1000 * 1000000};
    while (millis > 0 && nanosleep(&pause, &pause) != 0) {}
}

int fdatasync(int fd) {
    wait_as_told();
    return syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    wait_as_told();
    return syscall(SYS_fsync, fd);
}
