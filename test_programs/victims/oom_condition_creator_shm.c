// SPDX-License-Identifier: GPL-2.0
/*
 * Writes known data into shared memory, then takes memory until there is none:
 * the victim whose data a handler saves.
 */
#include "common.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

static const char usage[] =
	"usage: oom_condition_creator_shm [options] NAME\n"
	"Writes lines \"line 00000000 of gs shared memory\", counted from 0, into the\n"
	"shared memory NAME (/name for POSIX, sysv:KEY for System V, KEY a decimal\n"
	"number), prints \"pid <n>\", waits for Enter, then takes memory without end.\n"
	"  --lines N       how many lines (default 1000)\n"
	"  --now           do not wait for Enter\n"
	"  --total SIZE    stop there, remove the shared memory, exit 0\n";

#define LINE_FORMAT "line %08ld of gs shared memory\n"
#define LINE_BYTES 34UL
#define BLOCK (1UL << 20)

/* The segment is zeroed where the lines end: whole pages. */
static size_t segment_bytes(long lines)
{
	return (size_t)lines * LINE_BYTES;
}

static void *posix_segment(const char *name, size_t size)
{
	int fd = shm_open(name, O_CREAT | O_TRUNC | O_RDWR, 0600);
	void *data;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		die(name);
	data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (data == MAP_FAILED)
		die(name);
	return data;
}

static int sysv_id(const char *name, size_t size)
{
	long key = parse_number(name + 5, 1, INT32_MAX, usage);
	int id = shmget((key_t)key, size, IPC_CREAT | 0600);

	if (id < 0)
		die(name);
	return id;
}

static bool is_sysv(const char *name)
{
	return !strncmp(name, "sysv:", 5);
}

static void *make_segment(const char *name, size_t size)
{
	void *data;

	if (!is_sysv(name))
		return posix_segment(name, size);
	data = shmat(sysv_id(name, size), NULL, 0);
	if (data == (void *)-1)
		die(name);
	return data;
}

static void remove_segment(const char *name, size_t size)
{
	int error = is_sysv(name) ?
			    shmctl(sysv_id(name, size), IPC_RMID, NULL) :
			    shm_unlink(name);

	if (error)
		die(name);
}

static void write_lines(char *data, long lines)
{
	char line[64];

	for (long i = 0; i < lines; i++) {
		snprintf(line, sizeof(line), LINE_FORMAT, i);
		memcpy(data + (size_t)i * LINE_BYTES, line, LINE_BYTES);
	}
}

static void take(size_t total)
{
	for (size_t held = 0; !total || held < total; held += BLOCK)
		mark_pages(map_memory(BLOCK), BLOCK, held / PAGE_BYTES);
}

static void wait_for_enter(void)
{
	int key;

	printf("press Enter to begin\n");
	fflush(stdout);
	while ((key = getchar()) != '\n')
		if (key == EOF)
			_exit(EXIT_FAILED);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "lines", required_argument, NULL, 'l' },
		{ "now", no_argument, NULL, 'n' },
		{ "total", required_argument, NULL, 't' },
		{ 0 }
	};
	long lines = 1000;
	size_t total = 0;
	bool now = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'h':
			usage_exit(usage, true);
		case 'l':
			lines = parse_number(optarg, 1, 10000000, usage);
			break;
		case 'n':
			now = true;
			break;
		case 't':
			total = parse_size(optarg, usage);
			break;
		default:
			usage_exit(usage, false);
		}
	}
	if (argc - optind != 1)
		usage_exit(usage, false);
	write_lines(make_segment(argv[optind], segment_bytes(lines)), lines);
	printf("pid %d\n", getpid());
	fflush(stdout);
	if (!now)
		wait_for_enter();
	take(total);
	remove_segment(argv[optind], segment_bytes(lines));
	return EXIT_OK;
}
