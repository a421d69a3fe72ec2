// SPDX-License-Identifier: GPL-2.0
/* Looks into the victim as a debugger does; each step needs its locks, or itself. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: look_at_victim FILE [maps|smaps|attach]...\n"
	"Writes to FILE what it found out about $GS_VICTIM_PID, a line a step: the bytes\n"
	"of /proc/PID/maps or smaps; or, attached with ptrace, whether it stood still and\n"
	"could be read. Ends with \"end=1\".\n";

static pid_t victim;

static void report(int out, const char *key, long value)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%s=%ld\n", key, value);

	if (write_all(out, line, (size_t)length))
		die("write");
}

/* The size of a file of /proc/PID, read to its end. */
static long size_of(const char *name)
{
	char path[64], buffer[4096];
	long total = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", victim, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		total += n;
	if (n < 0)
		die(path);
	close(fd);
	return total;
}

/* Of its code: the first bytes of the first mapping. */
static bool can_peek(void)
{
	char path[64], line[128] = "";
	unsigned long start;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/maps", victim);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0)
		die(path);
	close(fd);
	start = strtoul(line, NULL, 16);
	errno = 0;
	return ptrace(PTRACE_PEEKDATA, victim, (void *)start, NULL) != -1 || !errno;
}

static bool attach(void)
{
	int status;
	bool good;

	if (ptrace(PTRACE_ATTACH, victim, NULL, NULL))
		die("attach");
	if (waitpid(victim, &status, 0) != victim || !WIFSTOPPED(status))
		die("wait");
	good = can_peek();
	if (ptrace(PTRACE_DETACH, victim, NULL, NULL))
		die("detach");
	return good;
}

int main(int argc, char **argv)
{
	int out;

	help_if_asked(argc, argv, usage);
	victim = (pid_t)env_number("GS_VICTIM_PID");
	if (argc < 3 || victim <= 0)
		usage_exit(usage, false);
	out = create_or_die(argv[1]);
	for (char **step = argv + 2; *step; step++) {
		if (!strcmp(*step, "attach"))
			report(out, *step, attach());
		else
			report(out, *step, size_of(*step));
	}
	report(out, "end", 1);
	return EXIT_OK;
}
