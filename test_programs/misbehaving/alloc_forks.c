// SPDX-License-Identifier: GPL-2.0
/* A handler whose processes take little each, and much together. */
#include "common.h"

#include <unistd.h>

static const char usage[] =
	"usage: alloc_forks COUNT SIZE\n"
	"A handler that forks COUNT processes, each of which takes and touches SIZE (K, M\n"
	"or G) and holds it for ever.\n";

int main(int argc, char **argv)
{
	size_t size;
	long count;

	help_if_asked(argc, argv, usage);
	if (argc != 3)
		usage_exit(usage, false);
	count = parse_number(argv[1], 1, 1000, usage);
	size = parse_size(argv[2], usage);
	while (count--) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (child)
			continue;
		mark_pages(map_memory(size), size, 0);
		wait_for_ever();
	}
	wait_for_ever();
}
