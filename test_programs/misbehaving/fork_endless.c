// SPDX-License-Identifier: GPL-2.0
/* A handler that forks without end, in many generations and sessions. */
#include "common.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

static const char usage[] =
	"usage: fork_endless [CAP]\n"
	"A handler whose processes fork without end, every second one in a session of\n"
	"its own. It stops forking, but does not end, at CAP processes (default 100),\n"
	"so that a kernel which does not stop it can still be looked at.\n";

int main(int argc, char **argv)
{
	atomic_long *count;
	long cap = 100;

	help_if_asked(argc, argv, usage);
	if (argc > 2)
		usage_exit(usage, false);
	if (argc == 2)
		cap = parse_number(argv[1], 1, 30000, usage);
	count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (count == MAP_FAILED)
		die("mmap");
	while (atomic_fetch_add(count, 1) < cap) {
		pid_t child = fork();

		if (child < 0) {
			atomic_fetch_sub(count, 1);
			sleep_ms(10);
		} else if (!child && atomic_load(count) % 2) {
			setsid();
		}
	}
	wait_for_ever();
}
