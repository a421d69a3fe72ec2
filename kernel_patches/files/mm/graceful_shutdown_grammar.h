/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GRACEFUL_SHUTDOWN_GRAMMAR_H
#define _MM_GRACEFUL_SHUTDOWN_GRAMMAR_H

/*
 * The grammar of one line of /proc/graceful_shutdown. Builds in user space
 * too, so that it can be fuzzed there.
 */

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdbool.h>
#include <stddef.h>
#endif

enum gs_line_kind {
	GS_LINE_EMPTY,		/* blank, or a comment */
	GS_LINE_REGISTER,
	GS_LINE_REMOVE,
};

enum gs_scope {
	GS_SCOPE_DEFAULT,	/* none given: the process */
	GS_SCOPE_PROCESS,
	GS_SCOPE_TREE,
};

/**
 * struct gs_line - one line, parsed
 * @kind: what it asks for
 * @pid: the process, in the writer's pid namespace
 * @grace_ms: the grace time asked for, 0 for the default
 * @signal: what the victim is sent, 0 for nothing
 * @scope: whom it is for
 * @words: the path and the arguments, unescaped, each ended by a NUL byte; none
 *	where there is a signal alone
 * @words_len: bytes in @words, the NUL bytes included
 * @argc: number of words
 */
struct gs_line {
	enum gs_line_kind kind;
	int pid;
	unsigned int grace_ms;
	unsigned int signal;
	enum gs_scope scope;
	const char *words;
	size_t words_len;
	int argc;
};

int gs_line_parse(char *text, size_t len, unsigned int max_grace_ms,
		  struct gs_line *line);
size_t gs_escape(char *dst, size_t size, const char *src);

#endif /* _MM_GRACEFUL_SHUTDOWN_GRAMMAR_H */
