// SPDX-License-Identifier: GPL-2.0
/* A handler that saves the shared memory which the victim wrote. */
#include "common.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
	"usage: read_shm NAME OUT\n"
	"A handler that saves the shared memory NAME into the file OUT. NAME is a POSIX\n"
	"name (/name) or sysv:KEY, KEY a decimal number.\n";

static void save(const void *data, size_t size, const char *out)
{
	int fd = create_or_die(out);

	if (write_all(fd, data, size) || close(fd))
		die(out);
}

static void save_posix(const char *name, const char *out)
{
	int from = shm_open(name, O_RDONLY, 0), to;

	if (from < 0)
		die(name);
	to = create_or_die(out);
	if (copy_rest(from, to) < 0 || close(to))
		die(out);
}

static void save_sysv(const char *key, const char *out)
{
	long number = parse_number(key, 1, INT32_MAX, usage);
	struct shmid_ds about;
	int id = shmget((key_t)number, 0, 0);
	const void *data;

	if (id < 0 || shmctl(id, IPC_STAT, &about))
		die(key);
	data = shmat(id, NULL, SHM_RDONLY);
	if (data == (const void *)-1)
		die(key);
	save(data, about.shm_segsz, out);
}

int main(int argc, char **argv)
{
	help_if_asked(argc, argv, usage);
	if (argc != 3)
		usage_exit(usage, false);
	if (!strncmp(argv[1], "sysv:", 5))
		save_sysv(argv[1] + 5, argv[2]);
	else
		save_posix(argv[1], argv[2]);
	return EXIT_OK;
}
