// SPDX-License-Identifier: GPL-2.0
/* A handler that starts a process as posix_spawn(3) does, while it has memory. */
#include "common.h"

#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: vfork_child SIZE MILLISECONDS\n"
	"A handler that takes and touches SIZE (K, M or G) and vforks a child, which shares\n"
	"its memory for so long and ends. It ends well, too.\n";

int main(int argc, char **argv)
{
	pid_t child;
	size_t size;
	long ms;

	help_if_asked(argc, argv, usage);
	if (argc != 3)
		usage_exit(usage, false);
	size = parse_size(argv[1], usage);
	ms = parse_number(argv[2], 0, 3600000, usage);
	mark_pages(map_memory(size), size, 0);
	child = vfork();
	if (child < 0)
		die("vfork");
	if (!child) {
		sleep_ms(ms);
		_exit(EXIT_OK);
	}
	if (waitpid(child, NULL, 0) < 0)
		die("waitpid");
	return EXIT_OK;
}
