// SPDX-License-Identifier: GPL-2.0
/* Holds memory until killed: what free_memory frees. */
#include "common.h"

#include <stdio.h>
#include <unistd.h>

static const char usage[] =
	"usage: hold_memory SIZE\n"
	"Takes SIZE (K, M or G), prints \"pid <n>\", and holds it until killed.\n";

int main(int argc, char **argv)
{
	size_t size;

	help_if_asked(argc, argv, usage);
	if (argc != 2)
		usage_exit(usage, false);
	size = parse_size(argv[1], usage);
	mark_pages(map_memory(size), size, 0);
	printf("pid %d\n", getpid());
	fflush(stdout);
	wait_for_ever();
}
