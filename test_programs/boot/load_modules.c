// SPDX-License-Identifier: GPL-2.0
/*
 * Process 1 of an initial RAM file system: loads the modules that a distribution's kernel needs to
 * reach its disk, and goes on with the system there.
 */
#include "common.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MODULES "/modules"
#define DISK "/dev/vda"
#define ROOT "/root"

/* The disk's driver finds it in its own time. */
#define TRIES 500
#define PAUSE_MS 20

static const char usage[] =
	"usage: load_modules (as /init of an initial RAM file system, nowhere else)\n"
	"Loads every file in " MODULES ", in the order of their names, mounts " DISK "\n"
	"as the root and execs what init= on the kernel's command line names.\n";

static void load(const char *name)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), MODULES "/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
		die(path);
	close(fd);
	/* It would stay in memory for ever. */
	unlink(path);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void load_all(void)
{
	struct dirent **names;
	int i, n = scandir(MODULES, &names, is_visible, alphasort);

	if (n < 0)
		die(MODULES);
	for (i = 0; i < n; i++)
		load(names[i]->d_name);
}

static void mount_root(void)
{
	int tries = TRIES;

	while (mount(DISK, ROOT, "ext4", 0, NULL)) {
		if (!--tries)
			die(DISK);
		sleep_ms(PAUSE_MS);
	}
}

/* What the kernel itself would run if it needed no modules. */
static const char *wanted_init(void)
{
	static char line[4096];
	char *word;
	ssize_t n;
	int fd;

	if (mount("proc", "/proc", "proc", 0, NULL))
		die("/proc");
	fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	if (n < 0)
		die("/proc/cmdline");
	close(fd);
	if (umount("/proc"))
		die("/proc");
	for (word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (!strncmp(word, "init=", 5))
			return word + 5;
	return "/sbin/init";
}

static void enter_root(void)
{
	if (mount("/dev", ROOT "/dev", NULL, MS_MOVE, NULL) || chdir(ROOT) ||
	    mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		die("changing the root");
}

int main(int argc, char **argv)
{
	const char *init;
	int console;

	help_if_asked(argc, argv, usage);
	if (getpid() != 1)
		usage_exit(usage, false);
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) && errno != EBUSY)
		die("/dev");
	console = open("/dev/console", O_RDWR);
	for (int fd = 0; console >= 0 && fd < 3; fd++)
		dup2(console, fd);
	unlink(argv[0]);
	load_all();
	mount_root();
	init = wanted_init();
	enter_root();
	execl(init, init, (char *)NULL);
	die(init);
}
