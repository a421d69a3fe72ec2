// SPDX-License-Identifier: GPL-2.0
/* Becomes a user, whole and undivided as after a login, and then another program. */
#include "common.h"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static const char usage[] =
	"usage: run_as UID [--wait] [--filter] PROGRAM [ARG]...\n"
	"Becomes user and group UID, and execs PROGRAM.\n"
	"  --wait     first print \"pid <n>\" and wait for Enter\n"
	"  --filter   first take on a seccomp filter, which allows everything\n";

/* Root may let a user lock memory, as the victims do that save themselves. */
static void become(long id)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	if (setrlimit(RLIMIT_MEMLOCK, &all) || setgroups(0, NULL) || setresgid((gid_t)id, (gid_t)id, (gid_t)id) ||
	    setresuid((uid_t)id, (uid_t)id, (uid_t)id) ||
	    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
		die("becoming the user");
}

static void wait_for_enter(void)
{
	char key;

	printf("pid %d\n", getpid());
	fflush(stdout);
	/* Not by stdio: what it reads ahead is the next program's. */
	while (read(STDIN_FILENO, &key, 1) == 1)
		if (key == '\n')
			return;
	_exit(EXIT_FAILED);
}

static void take_filter(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog filter = { .len = 1, .filter = &allow };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		die("seccomp");
}

int main(int argc, char **argv)
{
	help_if_asked(argc, argv, usage);
	if (argc < 3)
		usage_exit(usage, false);
	become(parse_number(argv[1], 1, 65534, usage));
	for (argv += 2; *argv && !strncmp(*argv, "--", 2); argv++) {
		if (!strcmp(*argv, "--wait"))
			wait_for_enter();
		else if (!strcmp(*argv, "--filter"))
			take_filter();
		else
			usage_exit(usage, false);
	}
	if (!*argv)
		usage_exit(usage, false);
	execv(*argv, argv);
	die(*argv);
}
