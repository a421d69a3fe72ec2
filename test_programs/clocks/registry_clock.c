// SPDX-License-Identifier: GPL-2.0
/*
 * Times registrations. The processes that it registers share one memory and do
 * nothing, so that there can be very many.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define REGISTRY "/proc/graceful_shutdown"
#define SCORE "/proc/self/oom_score_adj"

/* The kernel takes 1 MB a write. */
#define LINES_A_WRITE 10000L

static const char usage[] =
	"usage: registry_clock PROCESSES HANDLER\n"
	"Makes so many processes, prints \"ready\", and obeys lines:\n"
	"  add      register them, at most 10000 lines a write\n"
	"  remove   take the registrations back likewise\n"
	"  cost     write once to " SCORE " for each process, then register each\n"
	"           of them by a write of its own, both with the file kept open and with\n"
	"           open and close around each write; takes the registrations back\n"
	"The answer of add and remove is the ns of each write; of cost, the ns for one\n"
	"write: to the score, to the registry, and both again with open and close.\n";

static long nr_pids;
static pid_t *pids;
static pid_t owner;	/* of their memory */
static const char *handler;

/* One stack for all: each of them only ever has the same words on it. */
static char stack[65536] __attribute__((aligned(16)));

/* A system call that waits for a signal, without a word on the stack. */
static inline void pause_in_registers(void)
{
#if defined(__x86_64__)
	__asm__ volatile("syscall"
			 :
			 : "a"(SYS_pause)
			 : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long call __asm__("x8") = SYS_ppoll;
	register long nothing __asm__("x0") = 0, of __asm__("x1") = 0;
	register long no_end __asm__("x2") = 0, mask __asm__("x3") = 0;

	__asm__ volatile("svc 0"
			 : "+r"(nothing)
			 : "r"(call), "r"(of), "r"(no_end), "r"(mask)
			 : "memory");
#else
#error "How does this architecture call the kernel?"
#endif
}

/* No function may return here, and no signal is handled. */
static int __attribute__((noreturn)) do_nothing_for_ever(void *unused)
{
	(void)unused;
	for (;;)
		pause_in_registers();
}

static void __attribute__((noreturn)) own_processes(int ready)
{
	int shared = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | SIGCHLD;

	signal(SIGCHLD, SIG_IGN);
	for (long i = 0; i < nr_pids; i++) {
		pids[i] = clone(do_nothing_for_ever, stack + sizeof(stack),
				shared, NULL);
		if (pids[i] < 0)
			die("clone");
	}
	if (write_all(ready, "", 1))
		die("pipe");
	wait_for_ever();
}

/*
 * They share another process's memory, not ours: where memory is shared, a
 * write to the score goes through all processes.
 */
static void make_processes(void)
{
	int ready[2];
	char byte;

	pids = mmap(NULL, (size_t)nr_pids * sizeof(*pids),
		    PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (pids == MAP_FAILED || pipe2(ready, O_CLOEXEC))
		die("mmap");
	owner = fork();
	if (owner < 0)
		die("fork");
	if (!owner)
		own_processes(ready[1]);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		exit(EXIT_FAILED);
	close(ready[0]);
}

static void end_processes(void)
{
	for (long i = 0; i < nr_pids; i++)
		kill(pids[i], SIGKILL);
	kill(owner, SIGKILL);
	waitpid(owner, NULL, 0);
}

static int open_or_die(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		die(path);
	return fd;
}

static void write_or_die(int fd, const char *path, const char *text, size_t size)
{
	if (write(fd, text, size) != (ssize_t)size)
		die(path);
}

/* The lines for some processes: to register them, or to take it back. */
static size_t compose(char *text, long first, long count, bool add)
{
	char *at = text;

	for (long i = first; i < first + count; i++)
		at += add ? sprintf(at, "%d %s\n", pids[i], handler) :
			    sprintf(at, "-%d\n", pids[i]);
	return (size_t)(at - text);
}

static uint64_t timed_write(int fd, const char *text, size_t size)
{
	uint64_t begun = boottime_ns();

	write_or_die(fd, REGISTRY, text, size);
	return boottime_ns() - begun;
}

static void write_all_lines(bool add, bool told)
{
	char *text = malloc(LINES_A_WRITE * (16 + strlen(handler)));
	int fd = open_or_die(REGISTRY);

	if (!text)
		die("malloc");
	for (long first = 0; first < nr_pids; first += LINES_A_WRITE) {
		long left = nr_pids - first;
		size_t size = compose(text, first,
				      left < LINES_A_WRITE ? left : LINES_A_WRITE,
				      add);
		uint64_t took = timed_write(fd, text, size);

		if (told)
			printf("%llu ", (unsigned long long)took);
	}
	if (told)
		printf("\n");
	close(fd);
	free(text);
}

/*
 * The lines are ready before the clock runs. Many writes between two looks at
 * the clock: emulated, a look may cost more than a write.
 */
static uint64_t each(const char *path, char (*lines)[256], bool reopen)
{
	int fd = open_or_die(path);
	uint64_t begun = boottime_ns();

	for (long i = 0; i < nr_pids; i++) {
		if (reopen) {
			close(fd);
			fd = open_or_die(path);
		}
		write_or_die(fd, path, lines[i], strlen(lines[i]));
	}
	begun = boottime_ns() - begun;
	close(fd);
	return begun / (uint64_t)nr_pids;
}

static void tell_cost(char (*scores)[256], char (*lines)[256])
{
	uint64_t took[4];

	took[0] = each(SCORE, scores, false);
	took[1] = each(REGISTRY, lines, false);
	write_all_lines(false, false);
	took[2] = each(SCORE, scores, true);
	took[3] = each(REGISTRY, lines, true);
	write_all_lines(false, false);
	for (int i = 0; i < 4; i++)
		printf("%llu ", (unsigned long long)took[i]);
	printf("\n");
}

static void obey_cost(void)
{
	char(*scores)[256] = calloc((size_t)nr_pids, sizeof(*scores));
	char(*lines)[256] = calloc((size_t)nr_pids, sizeof(*lines));

	if (!scores || !lines)
		die("calloc");
	for (long i = 0; i < nr_pids; i++) {
		strcpy(scores[i], i % 2 ? "-1000\n" : "-999\n");
		snprintf(lines[i], sizeof(lines[i]), "%d %s\n", pids[i], handler);
	}
	tell_cost(scores, lines);
	free(scores);
	free(lines);
}

static void obey(const char *command)
{
	if (!strcmp(command, "add\n"))
		write_all_lines(true, true);
	else if (!strcmp(command, "remove\n"))
		write_all_lines(false, true);
	else if (!strcmp(command, "cost\n"))
		obey_cost();
	else
		usage_exit(usage, false);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[64];

	help_if_asked(argc, argv, usage);
	if (argc != 3)
		usage_exit(usage, false);
	nr_pids = parse_number(argv[1], 1, 1000000, usage);
	handler = argv[2];
	make_processes();
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		obey(line);
	end_processes();
	return EXIT_OK;
}
