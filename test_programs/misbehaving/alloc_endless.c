// SPDX-License-Identifier: GPL-2.0
/* A handler that takes memory without end, and says how far it got. */
#include "common.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char usage[] =
	"usage: alloc_endless [OUT]\n"
	"A handler that allocates and touches memory until it is stopped. After each\n"
	"MiB it writes the bytes it holds to OUT.\n";

#define BLOCK (1UL << 20)

static void note(int fd, unsigned long held)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu\n", held);
	if (pwrite(fd, text, strlen(text), 0) < 0)
		die("result file");
}

int main(int argc, char **argv)
{
	unsigned long held = 0;
	int out = -1;

	help_if_asked(argc, argv, usage);
	if (argc > 2)
		usage_exit(usage, false);
	if (argc == 2)
		out = create_or_die(argv[1]);
	for (;;) {
		void *block = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		/* Out of addresses or commit: hold what there is. */
		if (block == MAP_FAILED)
			wait_for_ever();
		mark_pages(block, BLOCK, held / PAGE_BYTES);
		held += BLOCK;
		if (out >= 0)
			note(out, held);
	}
}
