// SPDX-License-Identifier: GPL-2.0
/* A handler that stops itself, and again whenever it is continued. */
#include "common.h"

#include <signal.h>

static const char usage[] =
	"usage: stop_self\n"
	"A handler that sends itself SIGSTOP, again after each SIGCONT.\n";

int main(int argc, char **argv)
{
	help_if_asked(argc, argv, usage);
	if (argc != 1)
		usage_exit(usage, false);
	for (;;)
		raise(SIGSTOP);
}
