/* Runs a program once, with its streams on /dev/null, and prints what it took:
 * wall nanoseconds, CPU microseconds (with its reaped children), peak resident KiB, exit status.
 *
 * Peak memory starts at that of whoever calls execve, so this program is small and static. */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    pid_t pid;
    int status;
    struct rusage used;
    long long began = now();
    if (posix_spawn(&pid, argv[1], &actions, NULL, argv + 1, environ) != 0)
        return 2;
    if (wait4(pid, &status, 0, &used) < 0)
        return 2;
    long long took = now() - began;
    long long cpu = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000LL + used.ru_utime.tv_usec +
                    used.ru_stime.tv_usec;
    printf("%lld %lld %ld %d\n", took, cpu, used.ru_maxrss,
           WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}
