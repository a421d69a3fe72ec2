// SPDX-License-Identifier: GPL-2.0
/* Writes at random to the registry, and knows of most writes what must come of them. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char usage[] =
	"usage: write_random WRITES SEED\n"
	"Writes so often to /proc/graceful_shutdown, from a seed: good lines and bad ones,\n"
	"escapes, options at their edges, noise, several lines a write, and split ones.\n"
	"Registers only children of its own. Checks that a write does all that it says or\n"
	"nothing, and ends with what came of them; or, with 1, at the first that does not.\n";

static const char registry[] = "/proc/graceful_shutdown";

#define SLEEPERS 16
#define MOST_LINES 8
#define LONGEST_WRITE (1UL << 20)

/* Once in so many writes. */
#define CHECKED 16
#define REPLACED 200
#define COPIED_BACK 1000
#define HUGE_ONE 50000

/* What must come of a line, or of a write: it is taken, it is refused, or who knows. */
enum verdict { GOOD, BAD, UNKNOWN };

static struct sleeper {
	pid_t pid;
	bool registered;
} sleepers[SLEEPERS], planned[SLEEPERS];

static pid_t dead;

/* The file that is written to, and what it has seen. */
static struct {
	int fd;
	bool written, unterminated;
} file = { .fd = -1 };

static char text[LONGEST_WRITE + 4 * PATH_MAX];
static size_t length;

static long number, taken, refused, unknown;
static long errors[256];
static unsigned long seed;

/* ------------------------------------------------------------------ chance */

static uint64_t state;

static uint64_t chance(uint64_t below)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 0x2545f4914f6cdd1dULL >> 16) % below;
}

#define ONE_OF(array) (array)[chance(sizeof(array) / sizeof((array)[0]))]

/* ----------------------------------------------------------------- reports */

static void broken(const char *what, const char *more)
{
	printf("write %ld of seed %lu: %s: %s\n", number, seed, what, more);
	for (size_t i = 0; i < length && i < 2000; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '\n' || (c >= ' ' && c < 0x7f))
			putchar(c);
		else
			printf("<%02x>", c);
	}
	printf("\n[%zu bytes]\n", length);
	exit(EXIT_FAILED);
}

/* ---------------------------------------------------------------- sleepers */

static void begin_sleeper(struct sleeper *sleeper)
{
	pid_t parent = getpid();

	sleeper->registered = false;
	sleeper->pid = fork();
	if (sleeper->pid < 0)
		die("fork");
	if (sleeper->pid)
		return;
	close(file.fd);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		wait_for_ever();
	_exit(EXIT_FAILED);
}

/* With its end its entry is gone. */
static void end_sleeper(struct sleeper *sleeper)
{
	kill(sleeper->pid, SIGKILL);
	if (waitpid(sleeper->pid, NULL, 0) != sleeper->pid)
		die("waitpid");
	dead = sleeper->pid;
}

static void begin_sleepers(void)
{
	for (int i = 0; i < SLEEPERS; i++)
		begin_sleeper(&sleepers[i]);
}

static void replace_sleeper(void)
{
	struct sleeper *sleeper = &ONE_OF(sleepers);

	end_sleeper(sleeper);
	begin_sleeper(sleeper);
}

/* --------------------------------------------------------------- the lines */

__attribute__((format(printf, 1, 2))) static void add(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	length += (size_t)vsnprintf(text + length, sizeof(text) - length, format, args);
	va_end(args);
}

static void add_many(char c, size_t count)
{
	memset(text + length, c, count);
	length += count;
}

static void add_option(const char *key)
{
	static const int graces[] = { 1, 2, 1999, 2000, 2001, 29999, 30000 };
	static const int signals[] = { 1, 9, 15, 31, 32, 63, 64 };

	if (key[0] == 'g')
		add(" grace_ms=%d", ONE_OF(graces));
	else if (key[0] == 's' && key[1] == 'i')
		add(" signal=%d", ONE_OF(signals));
	else
		add(" scope=%s", chance(2) ? "tree" : "process");
}

static void add_argument(void)
{
	size_t size = chance(20) ? 1 + chance(8) : 300;

	add(chance(8) ? " " : "\t ");
	while (size--) {
		unsigned int c = 1 + (unsigned int)chance(255);

		if (c <= ' ' || c == '\\' || !chance(4))
			add("\\%03o", c);
		else
			add("%c", c);
	}
}

static enum verdict register_line(void)
{
	static const char *const paths[] = {
		"/gs/bin/do_nothing", "/bin/true", "/gs/../gs/bin/do_nothing",
		"/gs/bin/do\\137nothing", "\\057bin/true", "//bin///true",
	};
	static const char *const keys[] = { "grace_ms", "scope", "signal" };
	size_t first = chance(3), options = chance(4);
	size_t index = chance(SLEEPERS);
	bool signalled = false;

	add("%s%d", chance(8) ? "" : "  ", planned[index].pid);
	for (size_t i = 0; i < options; i++) {
		const char *key = keys[(first + i) % 3];

		signalled |= key == keys[2];
		add_option(key);
	}
	if (!signalled || chance(4)) {
		/* A word that does not begin with a slash would be an option. */
		add(" %s", paths[chance(3) ? 0 : chance(4)]);
		for (size_t i = chance(5); i; i--)
			add_argument();
	}
	planned[index].registered = true;
	return GOOD;
}

static enum verdict remove_line(void)
{
	struct sleeper *sleeper = &ONE_OF(planned);
	enum verdict verdict = sleeper->registered ? GOOD : BAD;

	add("-%d", sleeper->pid);
	sleeper->registered = false;
	return verdict;
}

static enum verdict empty_line(void)
{
	static const char *const lines[] = { "", " ", "\t", "# 1 /bin/true", "#" };

	add("%s", ONE_OF(lines));
	return GOOD;
}

static enum verdict of_nobody(void)
{
	static const char *const lines[] = {
		"0 /bin/true", "-0", "1 /bin/true", "2 /bin/true", "-1", "-2",
		"--1", "-", "+1 /bin/true", "0x10 /bin/true", "/bin/true",
		"4194305 /bin/true", "2147483647 /bin/true",
		"2147483648 /bin/true", "4294967297 /bin/true",
		"18446744073709551617 /bin/true",
		"99999999999999999999999999999999 /bin/true",
		"\\061 /bin/true",
	};

	if (chance(4))
		add("%s", ONE_OF(lines));
	else
		add("%s%d%s", chance(2) ? "-" : "", dead, chance(2) ? " /bin/true" : "");
	return BAD;
}

static enum verdict badly_said(void)
{
	static const char *const rests[] = {
		"", " ", "/bin/true", " bin/true", " =1 /bin/true",
		" colour=red /bin/true", " grace_ms=0 /bin/true",
		" grace_ms=30001 /bin/true", " grace_ms= /bin/true",
		" grace_ms=-1 /bin/true", " grace_ms=4294967297 /bin/true",
		" grace_ms=1 grace_ms=1 /bin/true", " grace_ms=1",
		" scope=tree", " scope= /bin/true", " scope=all /bin/true",
		" scope=tree scope=tree /bin/true",
		" signal=0", " signal=65", " signal=", " signal=9 signal=9",
		" /bin/true \\", " /bin/true \\0", " /bin/true \\000",
		" /bin/true \\400", " /bin/true \\08x", " /bin\\/true",
		" /nowhere", " /etc/passwd", " /bin", " /",
		" /gs/bin/do_nothing/x",
	};

	add("%d%s", ONE_OF(sleepers).pid, ONE_OF(rests));
	return BAD;
}

static enum verdict removal_with_more(void)
{
	add("-%d /bin/true", ONE_OF(sleepers).pid);
	return BAD;
}

static enum verdict with_a_nul(void)
{
	add("%d /bin/true a", ONE_OF(sleepers).pid);
	add_many('\0', 1);
	add("b");
	return BAD;
}

/* At the edges of what a path and a line may be. */
static enum verdict too_long(void)
{
	size_t edge = chance(2) ? PATH_MAX : 2 * PATH_MAX;

	add("%d /", ONE_OF(sleepers).pid);
	add_many('x', edge - 20 + chance(40));
	return BAD;
}

/* The pid stays: another would be somebody else's. So does the end of the line. */
static enum verdict changed(void)
{
	size_t begin = length, from;

	register_line();
	from = begin + strspn(text + begin, " ");
	from += strspn(text + from, "0123456789");
	for (size_t n = 1 + chance(3); n && length > from; n--) {
		size_t at = from + chance(length - from);

		if (chance(3)) {
			text[at] = (char)chance(256);
		} else {
			memmove(text + at, text + at + 1, length - at - 1);
			length--;
		}
		if (at < length && strchr("\n0123456789", text[at]))
			text[at] = '=';
	}
	return UNKNOWN;
}

static enum verdict noise(void)
{
	size_t begin = length;

	for (size_t n = 1 + chance(200); n; n--) {
		char c = (char)chance(256);

		add_many(c == '\n' ? ' ' : c, 1);
	}
	text[begin] |= (char)0x80; /* no digit, no blank, no comment */
	return BAD;
}

static enum verdict add_line(void)
{
	static enum verdict (*const rare[])(void) = {
		of_nobody, of_nobody, badly_said, badly_said, badly_said, removal_with_more,
		with_a_nul, too_long, changed, changed, changed, noise,
	};
	uint64_t kind = chance(20);

	if (kind < 8)
		return register_line();
	if (kind < 13)
		return remove_line();
	if (kind < 14)
		return empty_line();
	return ONE_OF(rare)();
}

/* -------------------------------------------------------------- the writes */

static enum verdict worse(enum verdict a, enum verdict b)
{
	return a == BAD || b == BAD ? BAD : a == UNKNOWN ? a : b;
}

static enum verdict add_lines(void)
{
	size_t lines = chance(2) ? 1 : 1 + chance(MOST_LINES);
	enum verdict verdict = GOOD;

	while (lines--) {
		verdict = worse(verdict, add_line());
		if (lines)
			add("\n");
	}
	if (chance(8))
		add("\n");
	return verdict;
}

/* Only the first write to a file may leave its last newline out, and it is the last one then. */
static enum verdict for_this_file(enum verdict verdict)
{
	bool ends = length && text[length - 1] == '\n';

	return length && (file.unterminated || (file.written && !ends)) ? BAD : verdict;
}

static void open_anew(void)
{
	if (file.fd >= 0)
		close(file.fd);
	file.fd = open(registry, O_RDWR | O_CLOEXEC);
	if (file.fd < 0)
		die(registry);
	file.written = file.unterminated = false;
}

/* Read from a file of its own, which does not count as a write's. */
static size_t read_registry(char *into, size_t size)
{
	size_t got = 0;
	ssize_t n;
	int fd = open(registry, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die(registry);
	while ((n = read(fd, into + got, size - got - 1)) > 0)
		got += (size_t)n;
	if (n < 0)
		die("read");
	close(fd);
	into[got] = '\0';
	return got;
}

static struct sleeper *sleeper_of(long pid)
{
	for (int i = 0; i < SLEEPERS; i++)
		if (sleepers[i].pid == pid)
			return &sleepers[i];
	broken("somebody else's process is registered", "see the write");
	return NULL;
}

/* Who is registered, by the text of the registry. */
static void learn(const char *from)
{
	for (int i = 0; i < SLEEPERS; i++)
		sleepers[i].registered = false;
	for (; *from; from = strchr(from, '\n') + 1) {
		struct sleeper *sleeper = sleeper_of(strtol(from, NULL, 10));

		if (sleeper->registered)
			broken("a process is registered twice", from);
		sleeper->registered = true;
	}
}

static char before[1UL << 20], after[1UL << 20];

static void check_who_is_registered(void)
{
	struct sleeper expected[SLEEPERS];

	memcpy(expected, sleepers, sizeof(expected));
	read_registry(after, sizeof(after));
	learn(after);
	for (int i = 0; i < SLEEPERS; i++)
		if (expected[i].registered != sleepers[i].registered)
			broken("not who should be registered", after);
}

static ssize_t write_it(void)
{
	ssize_t done = write(file.fd, text, length);

	if (done < 0 && (errno <= 0 || errno > 255))
		broken("no errno", strerror(errno));
	if (done < 0) {
		errors[errno]++;
		return done;
	}
	if ((size_t)done != length)
		broken("a short write", "of less than 1 MiB");
	if (length) {
		file.written = true;
		file.unterminated = text[length - 1] != '\n';
	}
	return done;
}

/* Every errno that the registry's documentation names, and those of a path that leads nowhere. */
static bool is_documented(int error)
{
	static const int documented[] = {
		EINVAL, ESRCH, ENOENT, ENOTDIR, EACCES, ENOEXEC, ENAMETOOLONG,
		E2BIG,
	};

	for (size_t i = 0; i < sizeof(documented) / sizeof(documented[0]); i++)
		if (error == documented[i])
			return true;
	return false;
}

static void judge_refusal(void)
{
	if (!is_documented(errno))
		broken("an errno that is not documented", strerror(errno));
	refused++;
}

static void write_known(enum verdict verdict)
{
	ssize_t done = write_it();

	if (done < 0 && verdict == GOOD)
		broken("refused, and should be taken", strerror(errno));
	if (done >= 0 && verdict == BAD)
		broken("taken, and should be refused", "");
	if (done < 0) {
		judge_refusal();
	} else {
		memcpy(sleepers, planned, sizeof(sleepers));
		taken++;
	}
	if (!chance(CHECKED))
		check_who_is_registered();
}

/* Whatever it is: if it is refused nothing has changed. */
static void write_unknown(void)
{
	unknown++;
	read_registry(before, sizeof(before));
	if (write_it() < 0) {
		judge_refusal();
		read_registry(after, sizeof(after));
		if (strcmp(before, after))
			broken("refused, and the registry has changed", after);
		return;
	}
	taken++;
	read_registry(after, sizeof(after));
	learn(after);
}

static void write_lines(void)
{
	enum verdict verdict;

	length = 0;
	memcpy(planned, sleepers, sizeof(planned));
	if (file.unterminated || !chance(3))
		open_anew();
	verdict = chance(500) ? for_this_file(add_lines()) : GOOD;
	if (verdict == UNKNOWN)
		write_unknown();
	else
		write_known(verdict);
}

/* As a tool does that knows nothing of lines; the second part never makes sense. */
static void write_split(void)
{
	size_t whole, cut;

	length = 0;
	memcpy(planned, sleepers, sizeof(planned));
	open_anew();
	register_line();
	add("\n");
	whole = length;
	cut = strcspn(text + 2, " \t") + 3;
	cut += chance(whole - cut);
	length = cut;
	write_unknown();
	memmove(text, text + cut, whole - cut);
	length = whole - cut;
	number++;
	if (file.unterminated)
		write_known(BAD);
	else if (!strchr("0123456789-# \t\n", text[0])) /* nobody's number */
		write_unknown();
}

/* What is read can be written back, and changes nothing. */
static void copy_back(void)
{
	length = read_registry(before, sizeof(before));
	memcpy(text, before, length);
	open_anew();
	if (write_it() != (ssize_t)length)
		broken("what was read is refused", strerror(errno));
	read_registry(after, sizeof(after));
	if (strcmp(before, after))
		broken("what was read and written back is read in another way", after);
	taken++;
}

/* Of more than 1 MiB the whole lines of the first MiB are taken. */
static void write_huge(void)
{
	ssize_t done;

	length = 0;
	open_anew();
	while (length <= LONGEST_WRITE) {
		add("#");
		add_many('x', chance(1000));
		add("\n");
	}
	done = write(file.fd, text, length);
	if (done <= 0 || (size_t)done > LONGEST_WRITE || text[done - 1] != '\n')
		broken("of a huge write the wrong part was taken", strerror(errno));
	file.written = true;
	taken++;
}

static void write_once(void)
{
	if (!chance(HUGE_ONE))
		write_huge();
	else if (!chance(COPIED_BACK))
		copy_back();
	else if (!chance(30))
		write_split();
	else
		write_lines();
	if (!chance(REPLACED))
		replace_sleeper();
}

static void tell(void)
{
	printf("seed=%lu writes=%ld taken=%ld refused=%ld unknown=%ld", seed, number, taken,
	       refused, unknown);
	for (int i = 0; i < 256; i++)
		if (errors[i])
			printf(" %s=%ld", strerrorname_np(i), errors[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	long writes;

	help_if_asked(argc, argv, usage);
	if (argc != 3)
		usage_exit(usage, false);
	writes = parse_number(argv[1], 1, LONG_MAX, usage);
	seed = (unsigned long)parse_number(argv[2], 1, LONG_MAX, usage);
	state = seed * 0x9e3779b97f4a7c15ULL | 1;
	begin_sleepers();
	replace_sleeper();
	open_anew();
	for (number = 1; number <= writes; number++)
		write_once();
	number--;
	for (int i = 0; i < SLEEPERS; i++)
		end_sleeper(&sleepers[i]);
	if (read_registry(after, sizeof(after)))
		broken("an entry without a process", after);
	tell();
	return EXIT_OK;
}
