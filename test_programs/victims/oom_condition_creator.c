// SPDX-License-Identifier: GPL-2.0
/* Takes memory until there is none: the victim of most tests. */
#include "common.h"

#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char usage[] =
	"usage: oom_condition_creator [options]\n"
	"Prints \"pid <n>\", waits for Enter, then allocates and touches block after\n"
	"block until it has the total, or for ever.\n"
	"  --block SIZE         of one block, K, M or G (default 1M)\n"
	"  --total SIZE         where to stop (default: nowhere)\n"
	"  --pace-ms N          pause after each block (default 0)\n"
	"  --now                do not wait for Enter\n"
	"  --start-file FILE    wait until FILE exists, not for Enter\n"
	"  --threads N          so many threads allocate, sharing the total (default 1)\n"
	"  --shape touch|read|map|spread|sparse|droppable|again\n"
	"                       who touches the pages: the program itself, or a read(2)\n"
	"                       that meets the missing memory inside the kernel; or the\n"
	"                       pages are those of a file on disk (without marks), and\n"
	"                       locked as soon as they are there; or these lie so far from\n"
	"                       each other that each takes a page table, too; or the same\n"
	"                       with memory, not a file, and not locked; or beside each\n"
	"                       lies one that the kernel may drop (Linux 6.11); or those\n"
	"                       of the first block are touched for ever, out of swap\n"
	"  --hold               at the total, hold the memory until killed (else exit 0)\n"
	"  --exit-file FILE     exit 0 as soon as FILE exists, from a thread of its own\n"
	"  --exit-after-ms N    exit 0 so long after the start, likewise\n"
	"  --exit-on-term       exit 0 on SIGTERM, which a thread of its own waits for: it\n"
	"                       needs no memory, not even for a signal frame\n"
	"  --save-on-term FILE  on SIGTERM write to FILE how much it has taken, exit 0; the\n"
	"                       thread that allocates does it itself, in a signal handler,\n"
	"                       having given back a block that it kept for this moment\n"
	"  --take-on-term SIZE  that handler needs so much memory before it writes\n"
	"Each page begins with a mark, so that its content can be recognised.\n";

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

/* Of the file that is mapped, more than any machine has. */
#define MOST_MAPPED ((off_t)1 << 40)

/* Kept for the moment in which the state is saved. */
#define SPARE (1UL << 20)

/* As much as one page table is for. */
#define APART (2UL << 20)

struct options {
	size_t block, total, take_on_term;
	long pace_ms, threads, exit_after_ms;
	const char *start_file, *exit_file, *save_file;
	bool now, hold, exit_on_term;
	void (*take)(size_t size, size_t before);
};

static void take_by_touch(size_t size, size_t before);
static void take_by_read(size_t size, size_t before);
static void take_by_map(size_t size, size_t before);
static void take_by_spread(size_t size, size_t before);
static void take_sparsely(size_t size, size_t before);
static void take_droppable(size_t size, size_t before);
static void take_again_and_again(size_t size, size_t before);

static struct options opt = { .block = 1UL << 20, .threads = 1, .take = take_by_touch };
static atomic_size_t taken;

static void parse_shape(const char *shape)
{
	if (!strcmp(shape, "touch"))
		opt.take = take_by_touch;
	else if (!strcmp(shape, "read"))
		opt.take = take_by_read;
	else if (!strcmp(shape, "map"))
		opt.take = take_by_map;
	else if (!strcmp(shape, "spread"))
		opt.take = take_by_spread;
	else if (!strcmp(shape, "sparse"))
		opt.take = take_sparsely;
	else if (!strcmp(shape, "droppable"))
		opt.take = take_droppable;
	else if (!strcmp(shape, "again"))
		opt.take = take_again_and_again;
	else
		usage_exit(usage, false);
}

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "block", required_argument, NULL, 'b' },
		{ "total", required_argument, NULL, 't' },
		{ "pace-ms", required_argument, NULL, 'p' },
		{ "now", no_argument, NULL, 'n' },
		{ "start-file", required_argument, NULL, 's' },
		{ "threads", required_argument, NULL, 'T' },
		{ "shape", required_argument, NULL, 'S' },
		{ "hold", no_argument, NULL, 'H' },
		{ "exit-file", required_argument, NULL, 'f' },
		{ "exit-after-ms", required_argument, NULL, 'a' },
		{ "exit-on-term", no_argument, NULL, 'e' },
		{ "save-on-term", required_argument, NULL, 'v' },
		{ "take-on-term", required_argument, NULL, 'k' },
		{ 0 }
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'h':
			usage_exit(usage, true);
		case 'b':
			opt.block = parse_size(optarg, usage);
			break;
		case 't':
			opt.total = parse_size(optarg, usage);
			break;
		case 'p':
			opt.pace_ms = parse_number(optarg, 0, 3600000, usage);
			break;
		case 'n':
			opt.now = true;
			break;
		case 's':
			opt.start_file = optarg;
			break;
		case 'T':
			opt.threads = parse_number(optarg, 1, 1000, usage);
			break;
		case 'S':
			parse_shape(optarg);
			break;
		case 'H':
			opt.hold = true;
			break;
		case 'f':
			opt.exit_file = optarg;
			break;
		case 'a':
			opt.exit_after_ms = parse_number(optarg, 1, 3600000, usage);
			break;
		case 'e':
			opt.exit_on_term = true;
			break;
		case 'v':
			opt.save_file = optarg;
			break;
		case 'k':
			opt.take_on_term = parse_size(optarg, usage);
			break;
		default:
			usage_exit(usage, false);
		}
	}
	if (optind != argc || opt.block < PAGE_BYTES)
		usage_exit(usage, false);
}

/* A reserved part of the total, in bytes; 0 when all of it is taken. */
static size_t next_share(size_t *before)
{
	*before = atomic_fetch_add(&taken, opt.block);
	if (!opt.total)
		return opt.block;
	if (*before >= opt.total)
		return 0;
	return opt.total - *before < opt.block ? opt.total - *before : opt.block;
}

static void *map(size_t size, int protection, int flags, int file, size_t offset)
{
	void *block = mmap(NULL, size, protection, flags, file, (off_t)offset);

	if (block == MAP_FAILED)
		die("mmap");
	return block;
}

static void take_by_touch(size_t size, size_t before)
{
	mark_pages(map_memory(size), size, before / PAGE_BYTES);
}

static void take_by_read(size_t size, size_t before)
{
	static atomic_int zero = -1;
	void *block = map_memory(size);

	if (zero < 0)
		zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	for (size_t done = 0; done < size;) {
		ssize_t n = read(zero, (char *)block + done, size - done);

		if (n <= 0)
			die("read");
		done += (size_t)n;
	}
	mark_pages(block, size, before / PAGE_BYTES);
}

/* Pages of a hole in a file: there is nothing to be read from the disk. */
static void take_of_file(size_t size, size_t before, size_t apart)
{
	static atomic_int file = -1;
	volatile char *block;

	if (file < 0)
		file = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (file < 0 || ftruncate(file, MOST_MAPPED))
		die("/var/tmp");
	block = map(size, PROT_READ, MAP_SHARED, file, before);
	if (mlock2((void *)block, size, MLOCK_ONFAULT))
		die("mlock2");
	for (size_t at = 0; at < size; at += apart)
		(void)block[at];
}

static void take_by_map(size_t size, size_t before)
{
	take_of_file(size, before, PAGE_BYTES);
}

/* How far so much memory reaches, one half of which are page tables. */
static size_t spread(size_t size)
{
	return size * (APART / (2 * PAGE_BYTES));
}

static void take_by_spread(size_t size, size_t before)
{
	take_of_file(spread(size), spread(before), APART);
}

static void take_sparsely(size_t size, size_t before)
{
	size_t all = spread(size);
	volatile char *block = map(all, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	(void)before;
	for (size_t at = 0; at < all; at += APART)
		block[at] = 1;
}

/*
 * The kernel drops one for the sake of one that it must keep, until there is none left to
 * drop: it is then for one of those to be dropped that there is no memory.
 */
static void take_droppable(size_t size, size_t before)
{
	char *kept = map_memory(size);
	char *dropped = map(size, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS,
			    -1, 0);

	(void)before;
	for (size_t at = 0; at < size; at += PAGE_BYTES)
		kept[at] = dropped[at] = 1;
}

static void take_again_and_again(size_t size, size_t before)
{
	char *block = map_memory(size);

	for (;;)
		mark_pages(block, size, before / PAGE_BYTES);
}

static void *allocate(void *unused)
{
	size_t size, before;

	while ((size = next_share(&before)) != 0) {
		opt.take(size, before);
		if (opt.pace_ms)
			sleep_ms(opt.pace_ms);
	}
	return unused;
}

/* Leaves while the allocating threads may be standing in the kernel. */
static void *leave_in_time(void *unused)
{
	uint64_t end = boottime_ns() + (uint64_t)opt.exit_after_ms * 1000000;

	for (;;) {
		if (opt.exit_file && !access(opt.exit_file, F_OK))
			_exit(EXIT_OK);
		if (opt.exit_after_ms && boottime_ns() >= end)
			_exit(EXIT_OK);
		sleep_ms(2);
	}
	return unused;
}

static void *leave_on_term(void *unused)
{
	sigset_t term;
	int number;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigwait(&term, &number);
	_exit(EXIT_OK);
	return unused;
}

static void *spare;

/* In a signal handler: nothing in here allocates, or is not safe there. */
static void save_and_leave(int number)
{
	char text[64];
	int length;

	munmap(spare, SPARE);
	if (opt.take_on_term &&
	    mmap(NULL, opt.take_on_term, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED)
		_exit(EXIT_FAILED);
	length = snprintf(text, sizeof(text), "signal=%d\ntaken=%zu\nend=1\n",
			  number, (size_t)atomic_load(&taken));

	if (write_all(create_or_die(opt.save_file), text, (size_t)length))
		_exit(EXIT_FAILED);
	_exit(EXIT_OK);
}

/* On a stack of its own, which is locked: a page of the other may be out of reach. */
static void save_on_term(void)
{
	static char stack[16 * PAGE_BYTES];
	const stack_t alternative = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = {
		.sa_handler = save_and_leave, .sa_flags = SA_ONSTACK,
	};

	/* Shared: merged with a private neighbour, it would take memory to unmap it. */
	spare = mmap(NULL, SPARE, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (spare == MAP_FAILED)
		die("mmap");
	if (sigaltstack(&alternative, NULL) || sigaction(SIGTERM, &action, NULL))
		die("sigaction");
}

/* Before the other threads begin, so that all of them have it blocked. */
static void block_term(void)
{
	sigset_t term;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL);
}

static void wait_for_start(void)
{
	int key;

	if (opt.start_file) {
		while (access(opt.start_file, F_OK))
			sleep_ms(5);
		return;
	}
	if (opt.now)
		return;
	printf("press Enter to begin\n");
	fflush(stdout);
	while ((key = getchar()) != '\n')
		if (key == EOF)
			_exit(EXIT_FAILED);
}

static pthread_t start(void *(*work)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, work, NULL))
		die("pthread_create");
	return thread;
}

int main(int argc, char **argv)
{
	pthread_t threads[1000];

	parse_options(argc, argv);
	if (opt.exit_on_term)
		block_term();
	if (opt.save_file)
		save_on_term();
	printf("pid %d\n", getpid());
	fflush(stdout);
	wait_for_start();
	if (opt.exit_file || opt.exit_after_ms)
		start(leave_in_time);
	if (opt.exit_on_term)
		start(leave_on_term);
	/*
	 * Or its text would have to be read back when there is no page for it. A
	 * user may lock little memory, which is no reason to stop.
	 */
	if ((opt.exit_on_term || opt.save_file) && mlockall(MCL_CURRENT) &&
	    geteuid() == 0)
		die("mlockall");
	for (long i = 1; i < opt.threads; i++)
		threads[i] = start(allocate);
	allocate(NULL);
	for (long i = 1; i < opt.threads; i++)
		pthread_join(threads[i], NULL);
	printf("allocated %zu\n", opt.total);
	fflush(stdout);
	if (opt.hold)
		wait_for_ever();
	return EXIT_OK;
}
