// SPDX-License-Identifier: GPL-2.0
/*
 * Graceful shutdown: before the OOM killer kills a registered process, its handler
 * runs. Each test makes a real OOM in a memory cgroup of its own and reads in the
 * event stream what happened. The handler is this program itself.
 *
 * See Documentation/admin-guide/mm/graceful_shutdown.rst.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest.h"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#endif

#define REGISTRY	"/proc/graceful_shutdown"
#define EVENTS		"/proc/graceful_shutdown_events"
#define GROUP		"/sys/fs/cgroup/graceful_shutdown_test"
#define SAVED		"/tmp/graceful_shutdown_test.saved"

#define MB		(1024UL * 1024)
#define LIMIT		(16 * MB)
#define BLOCK		MB
#define ENDLESS		(1024 * MB)
#define RECORD_MAX	(64UL << 10)
#define PATIENCE_MS	60000

static char self[PATH_MAX];
static int events = -1;

/* 0 or the error number; one write(2). */
static int write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		err = errno;
	close(fd);
	return err;
}

static int registry(const char *fmt, long pid, const char *path)
{
	char line[2 * PATH_MAX];

	snprintf(line, sizeof(line), fmt, pid, path);
	return write_to(REGISTRY, line);
}

/* Whether the registry shows this line. */
static bool shows(const char *line)
{
	static char text[1 << 20];
	int fd = open(REGISTRY, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return strstr(text, line);
}

/* ---- the handler, and the victim ----------------------------------------- */

static bool save(void)
{
	int fd = open(SAVED, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	return fd >= 0 && write(fd, "saved\n", 6) == 6;
}

static int handler(char **argv)
{
	if (!strcmp(argv[2], "hang"))
		for (;;)
			pause();
	return save() ? 0 : 1;
}

/* To save takes memory, which the victim has to give back first. */
static void *spare;

static void save_and_leave(int number)
{
	(void)number;
	munmap(spare, BLOCK);
	_exit(save() ? 0 : 1);
}

/* Waits until it is told to go, then takes memory without end. */
static void victim(int go)
{
	const struct sigaction save = { .sa_handler = save_and_leave };
	char key, *block;

	sigaction(SIGTERM, &save, NULL);
	spare = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (spare == MAP_FAILED)
		_exit(2);
	if (write_to(GROUP "/cgroup.procs", "0") ||
	    write_to("/proc/self/oom_score_adj", "500"))
		_exit(2);
	/* Taken here, where it is to be given back. */
	memset(spare, 1, BLOCK);
	if (mlockall(MCL_CURRENT) || read(go, &key, 1) != 1)
		_exit(2);
	/*
	 * In one mapping: who meets the OOM in a system call waits there, where
	 * no signal reaches it.
	 */
	block = mmap(NULL, ENDLESS, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (block != MAP_FAILED)
		memset(block, 1, ENDLESS);
	_exit(3);
}

static pid_t start_victim(int *go)
{
	int pipefd[2];
	pid_t pid;

	if (pipe(pipefd))
		return -1;
	pid = fork();
	if (!pid)
		victim(pipefd[0]);
	close(pipefd[0]);
	*go = pipefd[1];
	return pid;
}

static int let_go(pid_t pid, int go)
{
	int status = -1;

	if (write(go, "\n", 1) != 1)
		kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	close(go);
	return status;
}

/* ---- the event stream ------------------------------------------------------ */

static void forget_events(void)
{
	static char text[RECORD_MAX];

	while (read(events, text, sizeof(text)) > 0)
		;
}

static long value_of(const char *record, const char *key)
{
	const char *at = strstr(record, key);

	return at ? atol(at + strlen(key)) : -1;
}

/* The names of what happened to @pid until its end, each with a blank behind. */
static bool happened(pid_t pid, const char *expected, char *last, size_t size)
{
	static char text[RECORD_MAX];
	struct pollfd poller = { .fd = events, .events = POLLIN };
	char seen[256] = "", *line, *save;
	ssize_t n;

	while (strlen(seen) < strlen(expected)) {
		if (poll(&poller, 1, PATIENCE_MS) <= 0)
			break;
		n = read(events, text, sizeof(text) - 1);
		if (n <= 0)
			break;
		text[n] = '\0';
		for (line = strtok_r(text, "\n", &save); line;
		     line = strtok_r(NULL, "\n", &save)) {
			char name[16] = "";

			if (value_of(line, " pid=") != pid ||
			    sscanf(strstr(line, " event="), " event=%15s", name) != 1)
				continue;
			strcat(strncat(seen, name, 16), " ");
			snprintf(last, size, "%s", line);
			if (strlen(seen) > 200)
				break;
		}
	}
	if (strcmp(seen, expected))
		ksft_print_msg("expected %s, there was %s\n", expected, seen);
	return !strcmp(seen, expected);
}

static bool has_saved(void)
{
	struct stat st;

	return !stat(SAVED, &st) && st.st_size == 6;
}

/* ---- tests ------------------------------------------------------------------- */

/* An OOM of a victim that is registered by @fmt, and what is to happen to it. */
static bool oom(const char *fmt, const char *expected, int expected_status,
		char *last, size_t size)
{
	int go, status;
	pid_t pid;

	unlink(SAVED);
	forget_events();
	pid = start_victim(&go);
	if (pid < 0)
		return false;
	if (fmt && registry(fmt, pid, self)) {
		ksft_print_msg("registering: %s\n", strerror(errno));
		kill(pid, SIGKILL);
	}
	status = let_go(pid, go);
	if (status != expected_status)
		ksft_print_msg("status %#x, expected %#x\n", status,
			       expected_status);
	return happened(pid, expected, last, size) && status == expected_status;
}

static bool test_round_trip(void)
{
	char line[2 * PATH_MAX];
	bool good;

	snprintf(line, sizeof(line), "%d grace_ms=1234 %s one t\\040wo\n",
		 getpid(), self);
	good = !write_to(REGISTRY, line) && shows(line);
	good &= !write_to(REGISTRY, line) && shows(line);
	good &= !registry("-%ld\n", getpid(), "") && !shows(line);
	return good;
}

static bool test_errors(void)
{
	bool good = registry("%ld relative\n", getpid(), "") == EINVAL;

	good &= registry("%ld color=blue %s\n", getpid(), self) == EINVAL;
	good &= registry("%ld /no/such/file\n", getpid(), "") == ENOENT;
	good &= registry("%ld /\n", getpid(), "") == EACCES;
	good &= registry("%ld %s\n", 2147483646, self) == ESRCH;
	good &= registry("-%ld\n", getpid(), "") == ESRCH;
	return good && !shows(self);
}

static bool test_handler(void)
{
	char last[RECORD_MAX];

	return oom("%ld %s --handler save\n", "grace done kill ", SIGKILL, last,
		   sizeof(last)) &&
	       strstr(last, " outcome=done ") && has_saved();
}

static bool test_deadline(void)
{
	char last[RECORD_MAX];

	return oom("%ld grace_ms=500 %s --handler hang\n", "grace timeout kill ",
		   SIGKILL, last, sizeof(last)) &&
	       strstr(last, " outcome=timeout ");
}

static bool test_signal(void)
{
	char last[RECORD_MAX];

	return oom("%ld signal=15 grace_ms=10000\n", "grace gone ", 0, last,
		   sizeof(last)) && has_saved();
}

static bool test_unregistered(void)
{
	char last[RECORD_MAX];

	return oom(NULL, "kill ", SIGKILL, last, sizeof(last)) &&
	       strstr(last, " outcome=none ");
}

static const struct {
	const char *name;
	bool (*run)(void);
} tests[] = {
	{ "what is read can be written back", test_round_trip },
	{ "errors leave nothing behind", test_errors },
	{ "a handler runs before the kill", test_handler },
	{ "a handler that hangs is cut at its deadline", test_deadline },
	{ "a signal lets the victim save itself", test_signal },
	{ "a process that is not registered dies at once", test_unregistered },
};

static void prepare(void)
{
	char limit[32];

	if (geteuid())
		ksft_exit_skip("needs root\n");
	events = open(EVENTS, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (events < 0)
		ksft_exit_skip("no " EVENTS "\n");
	write_to("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	rmdir(GROUP);
	if (mkdir(GROUP, 0755))
		ksft_exit_skip("no cgroup v2 at /sys/fs/cgroup\n");
	snprintf(limit, sizeof(limit), "%lu", LIMIT);
	if (write_to(GROUP "/memory.max", limit)) {
		rmdir(GROUP);
		ksft_exit_skip("no memory controller of cgroup v2\n");
	}
	write_to(GROUP "/memory.swap.max", "0");
}

int main(int argc, char **argv)
{
	unsigned int i, failed = 0;

	if (argc == 3 && !strcmp(argv[1], "--handler"))
		return handler(argv);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return KSFT_FAIL;
	ksft_print_header();
	prepare();
	ksft_set_plan(ARRAY_SIZE(tests));
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		bool good = tests[i].run();

		if (good)
			ksft_test_result_pass("%s\n", tests[i].name);
		else
			ksft_test_result_fail("%s\n", tests[i].name);
		failed += !good;
	}
	unlink(SAVED);
	rmdir(GROUP);
	if (failed)
		ksft_exit_fail();
	ksft_exit_pass();
}
