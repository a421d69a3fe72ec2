// SPDX-License-Identifier: GPL-2.0
/*
 * Fuzzes the kernel's parser of registry lines in user space, under libFuzzer.
 *
 * An input is what one write(2) may hold; each of its lines is parsed. What is
 * held, besides what the sanitizers hold:
 *
 *  - nothing depends on, or is written to, memory outside the line and the one
 *    byte behind it;
 *  - the result is within the bounds that the grammar promises;
 *  - a line that is accepted, shown as the registry shows it, is accepted again
 *    with the same result, and shown the same;
 *  - gs_escape() never writes more than it may, and what is cut is a prefix.
 */

#include <assert.h>
#include <errno.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graceful_shutdown_grammar.h"

#define LINE_MAX_LEN	(2 * PATH_MAX)
#define MAX_GRACE_MS	30000
#define MAX_SIGNAL	64
#define CUT_MAX		12	/* three bytes that are escaped */

/* A line's result together with the memory that it points into. */
struct parsed {
	struct gs_line line;
	char *text;
	int err;
};

static void *get(size_t size)
{
	void *memory = malloc(size);

	assert(memory || !size);
	return memory;
}

/* Parse a copy that is exactly as long as promised; @behind is the byte after it. */
static struct parsed parse(const char *text, size_t len, char behind)
{
	struct parsed p;

	p.text = get(len + 1);
	memcpy(p.text, text, len);
	p.text[len] = behind;
	p.err = gs_line_parse(p.text, len, MAX_GRACE_MS, &p.line);
	return p;
}

/* What names the default is the same as what names nothing. */
static bool is_tree(const struct gs_line *line)
{
	return line->scope == GS_SCOPE_TREE;
}

static void assert_same(const struct gs_line *a, const struct gs_line *b)
{
	assert(a->kind == b->kind);
	assert(a->pid == b->pid);
	assert(a->grace_ms == b->grace_ms);
	assert(a->signal == b->signal);
	assert(is_tree(a) == is_tree(b));
	assert(a->argc == b->argc);
	assert(a->words_len == b->words_len);
	assert(!a->words_len || !memcmp(a->words, b->words, a->words_len));
}

static void check_words(const struct parsed *p, size_t len)
{
	const char *word = p->line.words, *end;
	int n = 0;

	if (!word) {
		assert(p->line.signal && !p->line.words_len && !p->line.argc);
		return;
	}
	end = word + p->line.words_len;
	assert(word >= p->text && end <= p->text + len + 1);
	assert(*word == '/');
	assert(strlen(word) < PATH_MAX);
	for (; word < end; word += strlen(word) + 1) {
		assert(*word);
		n++;
	}
	assert(word == end);
	assert(n == p->line.argc);
}

static void check_bounds(const struct parsed *p, size_t len)
{
	const struct gs_line *line = &p->line;

	assert(len <= LINE_MAX_LEN);
	assert(line->grace_ms <= MAX_GRACE_MS);
	assert(line->signal <= MAX_SIGNAL);
	assert(line->scope <= GS_SCOPE_TREE);
	assert(line->kind == GS_LINE_EMPTY ? !line->pid : line->pid > 0);
	if (line->kind == GS_LINE_REGISTER) {
		check_words(p, len);
		return;
	}
	assert(line->kind == GS_LINE_EMPTY || line->kind == GS_LINE_REMOVE);
	assert(!line->grace_ms && !line->signal && !line->scope);
	assert(!line->words && !line->words_len && !line->argc);
}

/* Escape into @size bytes: a prefix of the whole, and never a byte too many. */
static size_t check_cut(const char *word, const char *whole, size_t size)
{
	char *cut = get(size);
	size_t n = gs_escape(cut, size, word);

	assert(!size ? !n : n < size && !cut[n]);
	assert(!memcmp(cut, whole, n));
	free(cut);
	return n;
}

static void check_cuts(const char *word, const char *whole, size_t len)
{
	size_t size;

	for (size = 0; size < CUT_MAX && size <= len; size++)
		check_cut(word, whole, size);
	assert(check_cut(word, whole, len) < len);
	assert(check_cut(word, whole, len + 1) == len);
}

/* Escape a word behind a blank; @out has four bytes for each of its own. */
static char *append_word(char *out, const char *word)
{
	size_t len = strlen(word), n;

	*out++ = ' ';
	n = gs_escape(out, 4 * len + 1, word);
	assert(n == strlen(out) && n >= len);
	assert(!strpbrk(out, " \t\n"));
	return out + n;
}

/* The line as the registry shows it; the caller frees it. */
static char *show(const struct gs_line *line, size_t *len)
{
	char *text = get(4 * line->words_len + 100);
	const char *word = line->words;
	char *out = text;
	int i;

	out += sprintf(out, "%s%d", line->kind == GS_LINE_REMOVE ? "-" : "",
		       line->pid);
	if (line->grace_ms)
		out += sprintf(out, " grace_ms=%u", line->grace_ms);
	if (line->signal)
		out += sprintf(out, " signal=%u", line->signal);
	if (is_tree(line))
		out += sprintf(out, " scope=tree");
	for (i = 0; i < line->argc; i++) {
		char *start = out;

		out = append_word(out, word);
		if (i == line->argc - 1)
			check_cuts(word, start + 1, out - start - 1);
		word += strlen(word) + 1;
	}
	*len = out - text;
	return text;
}

static void check_shown(const struct gs_line *line)
{
	size_t len, again_len;
	char *text = show(line, &len);
	struct parsed p = parse(text, len, '\0');
	char *again;

	assert(!p.err);
	assert_same(line, &p.line);
	again = show(&p.line, &again_len);
	assert(len == again_len && !memcmp(text, again, len));
	free(again);
	free(p.text);
	free(text);
}

/* What stands behind the line has no part in it, whatever it is. */
static void check_behind(const struct parsed *p, const char *text, size_t len)
{
	static const char behind[] = { ' ', '7', '/' };
	size_t i;

	for (i = 0; i < sizeof(behind); i++) {
		struct parsed other = parse(text, len, behind[i]);

		assert(other.err == p->err);
		if (!p->err)
			assert_same(&p->line, &other.line);
		free(other.text);
	}
}

static void check_line(const char *text, size_t len)
{
	struct parsed p = parse(text, len, '\0');

	check_behind(&p, text, len);
	if (p.err) {
		assert(p.err == -EINVAL || p.err == -E2BIG ||
		       p.err == -ENAMETOOLONG);
	} else {
		check_bounds(&p, len);
		if (p.line.kind != GS_LINE_EMPTY)
			check_shown(&p.line);
	}
	free(p.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data, *end = text + size;
	const char *newline;

	while ((newline = memchr(text, '\n', end - text))) {
		check_line(text, newline - text);
		text = newline + 1;
	}
	check_line(text, end - text);
	return 0;
}
