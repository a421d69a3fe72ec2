// SPDX-License-Identifier: GPL-2.0
/* A handler that frees memory by ending another process. */
#include "common.h"

#include <signal.h>

static const char usage[] =
	"usage: free_memory PID\n"
	"A handler that kills PID, waits until it is gone, and so frees its memory.\n";

int main(int argc, char **argv)
{
	pid_t pid;

	help_if_asked(argc, argv, usage);
	if (argc != 2)
		usage_exit(usage, false);
	pid = (pid_t)parse_number(argv[1], 2, INT32_MAX, usage);
	if (kill(pid, SIGKILL))
		die(argv[1]);
	while (is_alive(pid))
		sleep_ms(1);
	return EXIT_OK;
}
