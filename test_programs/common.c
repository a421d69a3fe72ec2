// SPDX-License-Identifier: GPL-2.0
/* What the test programs share; see common.h. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

void usage_exit(const char *usage, bool asked)
{
	fputs(usage, asked ? stdout : stderr);
	exit(asked ? EXIT_OK : EXIT_USAGE);
}

void help_if_asked(int argc, char **argv, const char *usage)
{
	if (argc == 2 && !strcmp(argv[1], "--help"))
		usage_exit(usage, true);
}

void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what,
		strerror(errno));
	exit(EXIT_FAILED);
}

static int unit_shift(const char *unit)
{
	static const char units[] = "KMG";
	const char *found;

	if (!*unit)
		return 0;
	found = strchr(units, *unit);
	if (!found || unit[1])
		return -1;
	return 10 * (int)(found - units + 1);
}

size_t parse_size(const char *text, const char *usage)
{
	char *end;
	unsigned long long value;
	int shift;

	errno = 0;
	value = strtoull(text, &end, 10);
	shift = unit_shift(end);
	if (errno || end == text || *text == '-' || shift < 0 ||
	    value > (SIZE_MAX >> shift)) {
		fprintf(stderr, "%s: not a size: %s\n",
			program_invocation_short_name, text);
		usage_exit(usage, false);
	}
	return (size_t)value << shift;
}

long parse_number(const char *text, long min, long max, const char *usage)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max) {
		fprintf(stderr, "%s: not a number from %ld to %ld: %s\n",
			program_invocation_short_name, min, max, text);
		usage_exit(usage, false);
	}
	return value;
}

void sleep_ms(long ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

uint64_t boottime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

int write_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		ssize_t n = write(fd, at, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

ssize_t copy_rest(int from, int to)
{
	static char buffer[16384];
	ssize_t n, total = 0;

	while ((n = read(from, buffer, sizeof(buffer))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || write_all(to, buffer, (size_t)n))
			return -1;
		total += n;
	}
	return total;
}

int create_or_die(const char *path)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

	if (fd < 0)
		die(path);
	return fd;
}

long env_number(const char *name)
{
	const char *text = getenv(name);
	char *end;
	long value;

	if (!text || !*text)
		return -1;
	value = strtol(text, &end, 10);
	return *end ? -1 : value;
}

bool is_alive(long pid)
{
	char path[64], stat[512] = "";
	const char *state;
	int fd;

	if (pid <= 0 || (kill((pid_t)pid, 0) && errno != EPERM))
		return false;
	snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, stat, sizeof(stat) - 1) < 0)
		stat[0] = '\0';
	close(fd);
	state = strrchr(stat, ')');
	return state && state[1] == ' ' && !strchr("ZX", state[2]);
}

void *map_memory(size_t size)
{
	void *block = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (block == MAP_FAILED)
		die("mmap");
	return block;
}

void mark_pages(void *block, size_t size, uint64_t index)
{
	char *at = block;

	for (size_t done = 0; done < size; done += PAGE_BYTES, index++) {
		struct page_mark *mark = (struct page_mark *)(at + done);

		mark->magic = PAGE_MARK_MAGIC;
		mark->index = index;
	}
}

void wait_for_ever(void)
{
	for (;;)
		pause();
}
