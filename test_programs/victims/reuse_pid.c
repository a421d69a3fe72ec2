// SPDX-License-Identifier: GPL-2.0
/* Has a pid number used again: the next process gets the number that is asked for. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: reuse_pid PID PROG [ARG...]\n"
	"Runs PROG with the process number PID, which must be free, and waits for it.\n"
	"Needs /proc/sys/kernel/ns_last_pid (CONFIG_CHECKPOINT_RESTORE) and root.\n"
	"Exit status: PROG's, 128 + the signal it died of, 3 if the number was not to be\n"
	"had within 1000 tries.\n";

enum { EXIT_NO_NUMBER = 3 };

static void set_last_pid(long pid)
{
	static const char path[] = "/proc/sys/kernel/ns_last_pid";
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	char text[32];

	snprintf(text, sizeof(text), "%ld", pid);
	if (fd < 0 || write_all(fd, text, strlen(text)))
		die(path);
	close(fd);
}

/* The child waits in the pipe; the number decides whether it may go on. */
static pid_t try_once(long wanted, char **argv)
{
	int gate[2];
	char go = 1;
	pid_t child;

	if (pipe2(gate, O_CLOEXEC))
		die("pipe");
	set_last_pid(wanted - 1);
	child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		close(gate[1]);
		if (read(gate[0], &go, 1) != 1)
			_exit(EXIT_NO_NUMBER);
		execv(argv[0], argv);
		_exit(127);
	}
	close(gate[0]);
	if (child == wanted && write_all(gate[1], &go, 1))
		die("pipe");
	close(gate[1]);
	return child;
}

static int status_of(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	long wanted;

	help_if_asked(argc, argv, usage);
	if (argc < 3)
		usage_exit(usage, false);
	wanted = parse_number(argv[1], 2, 4194303, usage);
	for (int tries = 0; tries < 1000; tries++) {
		pid_t child = try_once(wanted, argv + 2);
		int status = status_of(child);

		if (child == wanted)
			return status;
	}
	return EXIT_NO_NUMBER;
}
