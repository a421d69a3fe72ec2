// SPDX-License-Identifier: GPL-2.0
/* A handler whose processes take little each, and much together. */
#include "common.h"

#include <sys/mman.h>
#include <unistd.h>

static const char usage[] =
	"usage: alloc_forks COUNT SIZE\n"
	"A handler that forks COUNT processes, each of which takes and touches SIZE (K, M\n"
	"or G) and holds it for ever.\n";

int main(int argc, char **argv)
{
	size_t size;
	long count;
	void *block;

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
		block = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (block == MAP_FAILED)
			die("mmap");
		mark_pages(block, size, 0);
		wait_for_ever();
	}
	wait_for_ever();
}
