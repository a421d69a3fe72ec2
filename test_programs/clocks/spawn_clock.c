// SPDX-License-Identifier: GPL-2.0
/*
 * Times a program that is started the ordinary way: what a handler's time is
 * compared with.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: spawn_clock [NAME=VALUE]... PROG [ARG]...\n"
	"Prints \"ready\", then for each line that it reads starts PROG, an absolute path, by\n"
	"posix_spawn(3) and waits for it. PROG gets what a handler gets: these variables\n"
	"and no others, a session of its own, the working directory /, /dev/null and\n"
	"/dev/kmsg. Each answer is \"<pid> <ns before the start> <ns after the wait>\n"
	"<wait status> <minor faults> <major faults>\"; the clock is CLOCK_BOOTTIME.\n";

/* PROG inherits 0, 1 and 2, so our own words go elsewhere. */
static FILE *requests, *answers;

static FILE *moved_away(int fd, const char *mode)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	FILE *file = moved < 0 ? NULL : fdopen(moved, mode);

	if (!file)
		die("stdio");
	return file;
}

static void put_at(const char *path, int flags, int target)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		fd = open("/dev/null", flags | O_CLOEXEC);
	if (fd < 0 || dup2(fd, target) < 0)
		die(path);
	close(fd);
}

static void take_stdio(void)
{
	requests = moved_away(STDIN_FILENO, "r");
	answers = moved_away(STDOUT_FILENO, "w");
	put_at("/dev/null", O_RDONLY, STDIN_FILENO);
	put_at("/dev/kmsg", O_WRONLY, STDOUT_FILENO);
	put_at("/dev/kmsg", O_WRONLY, STDERR_FILENO);
	if (chdir("/"))
		die("/");
}

static posix_spawnattr_t in_own_session(void)
{
	posix_spawnattr_t how;

	posix_spawnattr_init(&how);
	posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSID);
	return how;
}

static void clock_once(char **argv, char **envp, const posix_spawnattr_t *how)
{
	struct rusage used;
	uint64_t begun, ended;
	int status;
	pid_t child;

	begun = boottime_ns();
	errno = posix_spawn(&child, argv[0], NULL, how, argv, envp);
	if (errno) {
		fprintf(answers, "error: %s: %s\n", argv[0], strerror(errno));
		exit(EXIT_FAILED);
	}
	while (wait4(child, &status, 0, &used) < 0)
		if (errno != EINTR)
			die("wait4");
	ended = boottime_ns();
	fprintf(answers, "%d %llu %llu %d %ld %ld\n", child,
		(unsigned long long)begun, (unsigned long long)ended, status,
		used.ru_minflt, used.ru_majflt);
	fflush(answers);
}

int main(int argc, char **argv)
{
	static char *nothing[] = { "/dev/null/nothing", NULL };
	char *envp[256], line[64];
	posix_spawnattr_t how;
	pid_t child;
	int words = 0;

	help_if_asked(argc, argv, usage);
	for (argv++; *argv && strchr(*argv, '=') && words < 255; argv++)
		envp[words++] = *argv;
	envp[words] = NULL;
	if (!*argv || **argv != '/')
		usage_exit(usage, false);
	take_stdio();
	how = in_own_session();
	/*
	 * Not MCL_FUTURE, which would fill the whole stack of each child. A start
	 * that fails makes our own pages ready for those that are timed.
	 */
	if (mlockall(MCL_CURRENT) && geteuid() == 0)
		die("mlockall");
	posix_spawn(&child, nothing[0], NULL, &how, nothing, envp);
	fputs("ready\n", answers);
	fflush(answers);
	while (fgets(line, sizeof(line), requests))
		clock_once(argv, envp, &how);
	return EXIT_OK;
}
