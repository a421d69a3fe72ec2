// SPDX-License-Identifier: GPL-2.0
/* Many processes that die together: as many kills for one OOM. */
#include "common.h"

#include <stdio.h>
#include <unistd.h>

static const char usage[] =
	"usage: crowd COUNT\n"
	"Starts COUNT processes that do nothing, prints \"pid <n>\", waits for Enter, then\n"
	"takes memory for ever. In a memory cgroup with memory.oom.group=1 all of them\n"
	"are killed for its OOM.\n";

#define BLOCK (1UL << 20)

static void start_others(long count)
{
	for (; count > 0; count--) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child)
			wait_for_ever();
	}
}

int main(int argc, char **argv)
{
	uint64_t index = 0;

	help_if_asked(argc, argv, usage);
	if (argc != 2)
		usage_exit(usage, false);
	start_others(parse_number(argv[1], 1, 30000, usage));
	printf("pid %d\n", getpid());
	fflush(stdout);
	getchar();
	for (;; index += BLOCK / PAGE_BYTES)
		mark_pages(map_memory(BLOCK), BLOCK, index);
}
