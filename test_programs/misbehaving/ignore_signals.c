// SPDX-License-Identifier: GPL-2.0
/* A handler that ignores and blocks every signal that can be, and never ends. */
#include "common.h"

#include <signal.h>

static const char usage[] =
	"usage: ignore_signals\n"
	"A handler that never ends, with every signal ignored and blocked.\n";

int main(int argc, char **argv)
{
	sigset_t all;

	help_if_asked(argc, argv, usage);
	if (argc != 1)
		usage_exit(usage, false);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_IGN);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	wait_for_ever();
}
