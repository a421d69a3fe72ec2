// SPDX-License-Identifier: GPL-2.0
/* The smallest handler: it ends at once, well. */
#include "common.h"

static const char usage[] =
	"usage: do_nothing\n"
	"A handler that ends at once with exit status 0.\n";

int main(int argc, char **argv)
{
	help_if_asked(argc, argv, usage);
	if (argc != 1)
		usage_exit(usage, false);
	return EXIT_OK;
}
