// SPDX-License-Identifier: GPL-2.0
/*
 * A handler that writes a file: what it is, what it was given, when it ran and
 * whether the victim is still alive, one key=value a line.
 */
#include "common.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const char usage[] =
	"usage: write_file PATH [ARG...]\n"
	"A handler that writes PATH: its time, identity, stdio, arguments, the GS_\n"
	"variables of its environment, and whether the victim is alive.\n";

static char report[16384];
static size_t used;

static void __attribute__((format(printf, 1, 2))) add(const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(report + used, sizeof(report) - used, format, args);
	va_end(args);
	if (n > 0 && (size_t)n < sizeof(report) - used)
		used += (size_t)n;
}

static void add_link(const char *key, const char *link)
{
	char target[256];
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	target[n > 0 ? n : 0] = '\0';
	add("%s=%s\n", key, target);
}

static void add_first_line(const char *key, const char *path)
{
	char line[256] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		ssize_t n = read(fd, line, sizeof(line) - 1);

		line[n > 0 ? n : 0] = '\0';
		line[strcspn(line, "\n")] = '\0';
		close(fd);
	}
	add("%s=%s\n", key, line);
}

/* CapInh, CapPrm, CapEff, CapBnd and CapAmb, as masks in hexadecimal. */
static void add_capabilities(void)
{
	char status[4096] = "", *save = NULL;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return;
	n = read(fd, status, sizeof(status) - 1);
	close(fd);
	status[n > 0 ? n : 0] = '\0';
	for (char *line = strtok_r(status, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		if (!strncmp(line, "Cap", 3) && strchr(line, '\t'))
			add("%.6s=%s\n", line, strchr(line, '\t') + 1);
}

static void add_identity(void)
{
	add("pid=%d\nppid=%d\nsid=%d\npgid=%d\n", getpid(), getppid(),
	    getsid(0), getpgrp());
	add("uid=%d\neuid=%d\ngid=%d\negid=%d\n", getuid(), geteuid(), getgid(),
	    getegid());
	add_capabilities();
	add("no_new_privs=%d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	add_first_line("oom_score_adj", "/proc/self/oom_score_adj");
	add_first_line("cgroup", "/proc/self/cgroup");
	add_link("cwd", "/proc/self/cwd");
	add_link("stdin", "/proc/self/fd/0");
	add_link("stdout", "/proc/self/fd/1");
	add_link("stderr", "/proc/self/fd/2");
}

static void add_environment(void)
{
	for (char **at = environ; *at; at++)
		if (!strncmp(*at, "GS_", 3) || !strncmp(*at, "PATH=", 5) ||
		    !strncmp(*at, "HOME=", 5))
			add("%s\n", *at);
}

int main(int argc, char **argv)
{
	int fd;

	help_if_asked(argc, argv, usage);
	if (argc < 2)
		usage_exit(usage, false);
	add("time_ns=%llu\n", (unsigned long long)boottime_ns());
	add("victim_alive=%d\n", is_alive(env_number("GS_VICTIM_PID")));
	add_identity();
	add_environment();
	for (int i = 0; i < argc; i++)
		add("argv[%d]=%s\n", i, argv[i]);
	add("end=1\n");
	fd = create_or_die(argv[1]);
	if (write_all(fd, report, used) || close(fd))
		die(argv[1]);
	return EXIT_OK;
}
