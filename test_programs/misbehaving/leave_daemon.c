// SPDX-License-Identifier: GPL-2.0
/* A handler that ends well and leaves a daemon behind. */
#include "common.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: leave_daemon PIDFILE\n"
	"A handler that forks twice, with a session of its own between, and ends with\n"
	"exit status 0. The grandchild has written its pid to PIDFILE and stays.\n";

static void write_pid(const char *path)
{
	char text[32];
	int fd = create_or_die(path);

	snprintf(text, sizeof(text), "%d\n", getpid());
	if (write_all(fd, text, strlen(text)) || close(fd))
		die(path);
}

static pid_t fork_or_die(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	return child;
}

/* The handler must not end before the file is there: a pipe tells it. */
static void become_daemon(const char *path, int ready)
{
	setsid();
	if (fork_or_die())
		_exit(EXIT_OK);
	write_pid(path);
	close(ready);
	wait_for_ever();
}

int main(int argc, char **argv)
{
	int ready[2];
	char nothing;

	help_if_asked(argc, argv, usage);
	if (argc != 2)
		usage_exit(usage, false);
	if (pipe(ready))
		die("pipe");
	if (!fork_or_die()) {
		close(ready[0]);
		become_daemon(argv[1], ready[1]);
	}
	close(ready[1]);
	wait(NULL);
	if (read(ready[0], &nothing, 1) < 0)
		die("pipe");
	return access(argv[1], F_OK) ? EXIT_FAILED : EXIT_OK;
}
