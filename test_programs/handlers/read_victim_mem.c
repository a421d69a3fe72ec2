// SPDX-License-Identifier: GPL-2.0
/*
 * A handler that reads the whole private memory of its victim through
 * /proc/PID/mem. What was swapped out comes back in, and is charged to the
 * victim's memory cgroup, which is full: the handler meets the OOM itself.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
	"usage: read_victim_mem OUT [PID]\n"
	"A handler that reads all private writable memory of PID (default: of the\n"
	"victim, GS_VICTIM_PID) and writes to OUT: swap_kb= at the start, bytes= read,\n"
	"marked_pages= that a victim of these tests had marked, read_errors= (it gives up\n"
	"after 16: each costs the kernel a long search for memory).\n"
	"Exit status 0 only if something was marked and nothing failed.\n";

#define ERRORS_MAX 16

struct tally {
	unsigned long bytes, marked_pages, errors;
};

static void read_page(int mem, off_t at, struct tally *tally)
{
	static char page[PAGE_BYTES] __attribute__((aligned(8)));
	ssize_t n = pread(mem, page, sizeof(page), at);

	if (n != (ssize_t)sizeof(page)) {
		tally->errors++;
		return;
	}
	tally->bytes += sizeof(page);
	if (((struct page_mark *)page)->magic == PAGE_MARK_MAGIC)
		tally->marked_pages++;
}

/* Private and writable, and no device: "start-end rw-p offset dev inode name". */
static void read_mappings(FILE *maps, int mem, struct tally *tally)
{
	char line[512];

	while (fgets(line, sizeof(line), maps)) {
		unsigned long start, end;
		char mode[5];

		if (sscanf(line, "%lx-%lx %4s", &start, &end, mode) != 3 ||
		    strcmp(mode, "rw-p"))
			continue;
		for (; start < end && tally->errors < ERRORS_MAX; start += PAGE_BYTES)
			read_page(mem, (off_t)start, tally);
	}
}

static long swap_kb(long pid)
{
	static char status[8192];
	char path[64];
	const char *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	n = read(fd, status, sizeof(status) - 1);
	close(fd);
	status[n > 0 ? n : 0] = '\0';
	at = strstr(status, "VmSwap:");
	return at ? strtol(at + 7, NULL, 10) : -1;
}

static void write_tally(const char *out, long swap, const struct tally *tally)
{
	char text[256];
	int fd = create_or_die(out);

	snprintf(text, sizeof(text),
		 "swap_kb=%ld\nbytes=%lu\nmarked_pages=%lu\nread_errors=%lu\n",
		 swap, tally->bytes, tally->marked_pages, tally->errors);
	if (write_all(fd, text, strlen(text)) || close(fd))
		die(out);
}

int main(int argc, char **argv)
{
	struct tally tally = { 0 };
	char path[64];
	FILE *maps;
	long pid, swap;
	int mem;

	help_if_asked(argc, argv, usage);
	if (argc < 2 || argc > 3)
		usage_exit(usage, false);
	pid = argc == 3 ? parse_number(argv[2], 1, INT32_MAX, usage) :
			  env_number("GS_VICTIM_PID");
	if (pid <= 0)
		usage_exit(usage, false);
	swap = swap_kb(pid);
	snprintf(path, sizeof(path), "/proc/%ld/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		die(path);
	snprintf(path, sizeof(path), "/proc/%ld/mem", pid);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	if (mem < 0)
		die(path);
	read_mappings(maps, mem, &tally);
	write_tally(argv[1], swap, &tally);
	return tally.marked_pages && !tally.errors ? EXIT_OK : EXIT_FAILED;
}
