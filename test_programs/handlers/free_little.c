// SPDX-License-Identifier: GPL-2.0
/* A handler that frees a little memory, and exactly that: a tmpfs file shrinks. */
#include "common.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
	"usage: free_little FILE [SIZE]\n"
	"A handler that takes SIZE (default 100K) off the end of FILE, which lies on a\n"
	"tmpfs and so is memory of whoever wrote it.\n";

int main(int argc, char **argv)
{
	struct stat about;
	size_t size;

	help_if_asked(argc, argv, usage);
	if (argc < 2 || argc > 3)
		usage_exit(usage, false);
	size = parse_size(argc == 3 ? argv[2] : "100K", usage);
	if (stat(argv[1], &about))
		die(argv[1]);
	if ((size_t)about.st_size < size) {
		errno = ENODATA;
		die(argv[1]);
	}
	if (truncate(argv[1], about.st_size - (off_t)size))
		die(argv[1]);
	return EXIT_OK;
}
