// SPDX-License-Identifier: GPL-2.0
/* A handler that crashes. */
#include "common.h"

#include <signal.h>

static const char usage[] =
	"usage: crash [SIGNAL]\n"
	"A handler that dies of the signal with this number (default 11, by a real\n"
	"access to address 0).\n";

int main(int argc, char **argv)
{
	volatile int *nowhere = NULL;

	help_if_asked(argc, argv, usage);
	if (argc > 2)
		usage_exit(usage, false);
	if (argc == 2)
		raise((int)parse_number(argv[1], 1, 64, usage));
	*nowhere = 1;
	return EXIT_FAILED;
}
