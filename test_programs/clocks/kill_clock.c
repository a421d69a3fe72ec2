// SPDX-License-Identifier: GPL-2.0
/*
 * Times kills of the OOM killer as user space sees them, which works on any
 * kernel.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: kill_clock [options] GROUP\n"
	"Lets one child after another run out of the memory of GROUP, the directory of a\n"
	"memory cgroup with a limit. Prints for each of them\n"
	"\"<pid> <ns before it touched its last page> <ns after the wait for its end>\";\n"
	"the clock is CLOCK_BOOTTIME. Exit status 1 if one was not killed.\n"
	"  --count N        so many (default 1)\n"
	"  --handler PATH   register each of them with this handler\n";

/* What the child tells us. */
struct shared {
	uint64_t touch_ns;
};

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write_all(fd, text, strlen(text)) || close(fd))
		die(path);
}

static void enter(const char *group)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	write_text(path, "0");
	write_text("/proc/self/oom_score_adj", "0");
}

static void touch_all(struct shared *shared)
{
	size_t size = 1UL << 30;
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		die("mmap");
	for (size_t done = 0; done < size; done += PAGE_BYTES) {
		shared->touch_ns = boottime_ns();
		*(volatile char *)(at + done) = 1;
	}
}

/* In the child. A byte of the gate says that it is registered. */
static void __attribute__((noreturn))
be_victim(const char *group, struct shared *shared, int gate)
{
	char go;

	enter(group);
	if (read(gate, &go, 1) == 1)
		touch_all(shared);
	_exit(EXIT_FAILED);
}

static void register_victim(pid_t pid, const char *handler)
{
	char line[512];

	snprintf(line, sizeof(line), "%d %s\n", pid, handler);
	write_text("/proc/graceful_shutdown", line);
}

static bool clock_once(const char *group, const char *handler,
		       struct shared *shared)
{
	uint64_t ended;
	int gate[2], status;
	pid_t child;

	if (pipe2(gate, O_CLOEXEC))
		die("pipe");
	child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		close(gate[1]);
		be_victim(group, shared, gate[0]);
	}
	if (handler)
		register_victim(child, handler);
	/* Both ends are open here: a child that has ended already does no harm. */
	if (write_all(gate[1], "", 1))
		die("pipe");
	close(gate[0]);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	ended = boottime_ns();
	close(gate[1]);
	printf("%d %llu %llu\n", child, (unsigned long long)shared->touch_ns,
	       (unsigned long long)ended);
	fflush(stdout);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "count", required_argument, NULL, 'c' },
		{ "handler", required_argument, NULL, 'r' },
		{ 0 }
	};
	const char *handler = NULL;
	struct shared *shared;
	long count = 1;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'h':
			usage_exit(usage, true);
		case 'c':
			count = parse_number(optarg, 1, 1000000, usage);
			break;
		case 'r':
			handler = optarg;
			break;
		default:
			usage_exit(usage, false);
		}
	}
	if (argc - optind != 1)
		usage_exit(usage, false);
	shared = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	while (count--)
		if (!clock_once(argv[optind], handler, shared))
			return EXIT_FAILED;
	return EXIT_OK;
}
