/* Preloaded into CRIU by the tests of checkpoint and restore.
 *
 * Linux 6.13 split the area of the kernel's clocks in two: [vvar] is followed by [vvar_vclock].
 * CRIU before 4.1 does not know the second one and refuses to start. Here it reads maps and smaps
 * in which both are one [vvar], as they were before. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char *read_all(int fd)
{
	size_t size = 0, room = 1 << 16;
	char *text = malloc(room + 1);
	ssize_t n;

	while (text && (n = read(fd, text + size, room - size)) > 0) {
		size += n;
		if (size == room)
			text = realloc(text, (room *= 2) + 1);
	}
	if (text)
		text[size] = 0;
	return text;
}

/* A file with the same text, but for the two areas. */
static int joined(int fd)
{
	char *text = read_all(fd), *clock, *line, *next;
	unsigned long start, end, last = 0;
	int hidden = 0, out = memfd_create("maps", MFD_CLOEXEC);

	close(fd);
	if (!text || out < 0)
		return -1;
	clock = strstr(text, "[vvar_vclock]");
	while (clock && clock > text && clock[-1] != '\n')
		clock--;
	if (clock)
		sscanf(clock, "%lx-%lx", &start, &last);
	for (line = text; *line; line = next) {
		char *newline = strchr(line, '\n');
		int header = sscanf(line, "%lx-%lx ", &start, &end) == 2;

		next = newline ? newline + 1 : line + strlen(line);
		if (newline)
			*newline = 0;
		if (header)
			hidden = strstr(line, "[vvar_vclock]") != NULL;
		if (header && last && strstr(line, "[vvar]"))
			dprintf(out, "%lx-%lx%s\n", start, last, strchr(line, ' '));
		else if (!hidden)
			dprintf(out, "%s\n", line);
	}
	free(text);
	lseek(out, 0, SEEK_SET);
	return out;
}

static int seen(int fd, const char *path)
{
	size_t length = strlen(path);

	return fd >= 0 && length >= 4 && !strcmp(path + length - 4, "maps") ? joined(fd) : fd;
}

#define OPENAT(name)                                                              \
	int name(int folder, const char *path, int flags, ...)                    \
	{                                                                         \
		static int (*real)(int, const char *, int, ...);                  \
		va_list more;                                                     \
		int mode;                                                         \
                                                                                  \
		va_start(more, flags);                                            \
		mode = va_arg(more, int);                                         \
		va_end(more);                                                     \
		if (!real)                                                        \
			real = dlsym(RTLD_NEXT, #name);                           \
		return seen(real(folder, path, flags, mode), path);               \
	}
OPENAT(openat)
OPENAT(openat64)

#define OPEN(name)                                                                \
	int name(const char *path, int flags, ...)                                \
	{                                                                         \
		static int (*real)(const char *, int, ...);                       \
		va_list more;                                                     \
		int mode;                                                         \
                                                                                  \
		va_start(more, flags);                                            \
		mode = va_arg(more, int);                                         \
		va_end(more);                                                     \
		if (!real)                                                        \
			real = dlsym(RTLD_NEXT, #name);                           \
		return seen(real(path, flags, mode), path);                       \
	}
OPEN(open)
OPEN(open64)
