// SPDX-License-Identifier: GPL-2.0
/* A handler that copies a text file line by line. */
#include "common.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
	"usage: copy_file SRC DST\n"
	"A handler that copies SRC to DST line by line. A last line without a newline\n"
	"stays without one.\n";

/* A line longer than the buffer goes in pieces: the copy is the same. */
static int copy_lines(FILE *from, FILE *to)
{
	static char line[65536];

	while (fgets(line, sizeof(line), from))
		if (fputs(line, to) == EOF)
			return -1;
	return ferror(from) ? -1 : 0;
}

int main(int argc, char **argv)
{
	static char in_buffer[BUFSIZ], out_buffer[BUFSIZ];
	FILE *from, *to;

	help_if_asked(argc, argv, usage);
	if (argc != 3)
		usage_exit(usage, false);
	from = fopen(argv[1], "re");
	if (!from)
		die(argv[1]);
	to = fopen(argv[2], "we");
	if (!to)
		die(argv[2]);
	setvbuf(from, in_buffer, _IOFBF, sizeof(in_buffer));
	setvbuf(to, out_buffer, _IOFBF, sizeof(out_buffer));
	if (copy_lines(from, to) || fclose(to))
		die(argv[2]);
	return EXIT_OK;
}
