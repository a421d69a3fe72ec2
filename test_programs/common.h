/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the test programs share: usage, numbers, whole writes, result files.
 *
 * A handler runs when there is next to no memory, so nothing in here allocates.
 */
#ifndef TEST_PROGRAMS_COMMON_H
#define TEST_PROGRAMS_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Exit statuses. 1 is "I ran, and it did not work"; 2 is "called wrongly". */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* The first 16 bytes of each page that a victim touches. */
struct page_mark {
	uint64_t magic;
	uint64_t index;
};

#define PAGE_MARK_MAGIC 0x6773206f6f6d2121ULL
#define PAGE_BYTES 4096UL

/* Prints the usage text and exits: 0 if the user asked for it, else 2. */
void usage_exit(const char *usage, bool asked) __attribute__((noreturn));

/* True, having printed the usage and left, if the only word is --help. */
void help_if_asked(int argc, char **argv, const char *usage);

/* Prints "<program>: <what>: <strerror(errno)>" and exits 1. */
void die(const char *what) __attribute__((noreturn));

/* "4096", "100K", "500M", "2G" in bytes; exits 2 on anything else. */
size_t parse_size(const char *text, const char *usage);

/* A decimal number min..max; exits 2 on anything else. */
long parse_number(const char *text, long min, long max, const char *usage);

/* Milliseconds, restarted when a signal interrupts. */
void sleep_ms(long ms);

/* CLOCK_BOOTTIME, the clock of the event stream. */
uint64_t boottime_ns(void);

/* Writes all of it, whatever write(2) takes at a time. 0, or -1 and errno. */
int write_all(int fd, const void *data, size_t size);

/* Copies the rest of one file to another. Bytes, or -1 and errno. */
ssize_t copy_rest(int from, int to);

/* O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644; dies if it cannot. */
int create_or_die(const char *path);

/* The number in the environment variable; -1 if there is none. */
long env_number(const char *name);

/* Alive and not a zombie, whose memory is free: the kernel keeps the number of a dead process. */
bool is_alive(long pid);

/* Private memory, of which no page is there yet; dies if it cannot. */
void *map_memory(size_t size);

/* Marks and so touches each page of the block; index is the first page's. */
void mark_pages(void *block, size_t size, uint64_t index);

/* Sleeps for ever. */
void wait_for_ever(void) __attribute__((noreturn));

#endif
