/* Preloaded into user-mode-linux on processors whose register state is larger than it knows.
 *
 * It writes its processes' floating-point registers with PTRACE_SETREGSET and a buffer of a fixed
 * size; the kernel of the machine takes only the whole state (AVX-512 and AMX made it larger). What
 * it does not give is taken from the process as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
	static long (*real)(enum __ptrace_request, ...);
	static __thread char state[1 << 16];
	struct iovec whole = { state, sizeof(state) };
	void *address, *data;
	va_list more;
	int pid;

	va_start(more, request);
	pid = va_arg(more, int);
	address = va_arg(more, void *);
	data = va_arg(more, void *);
	va_end(more);
	if (!real)
		real = dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
		struct iovec *given = data;

		if (!real(PTRACE_GETREGSET, pid, address, &whole) && whole.iov_len > given->iov_len) {
			memcpy(state, given->iov_base, given->iov_len);
			return real(request, pid, address, &whole);
		}
	}
	return real(request, pid, address, data);
}
