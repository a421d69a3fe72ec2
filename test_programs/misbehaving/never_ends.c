// SPDX-License-Identifier: GPL-2.0
/* A handler that never ends. */
#include "common.h"

#include <string.h>

static const char usage[] =
	"usage: never_ends [--spin]\n"
	"A handler that sleeps for ever, or with --spin uses a processor for ever.\n";

int main(int argc, char **argv)
{
	help_if_asked(argc, argv, usage);
	if (argc == 1)
		wait_for_ever();
	if (argc != 2 || strcmp(argv[1], "--spin"))
		usage_exit(usage, false);
	for (;;)
		__asm__ volatile("" ::: "memory");
}
