// SPDX-License-Identifier: GPL-2.0
/*
 * Grammar of /proc/graceful_shutdown:
 *
 *	<pid> [key=value]... <path> [arg]...	register
 *	<pid> signal=<n> [key=value]...		the same, without a handler
 *	-<pid>					remove
 *	# anything				ignored, as are blank lines
 *
 * Words are separated by blanks and tabs. A byte that would split a word is
 * written as a backslash and three octal digits, as in /proc/mounts.
 */

#ifdef __KERNEL__
#include <linux/ctype.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/limits.h>
#include <linux/string.h>
#else
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <linux/limits.h>
#include <string.h>
#endif

#include "graceful_shutdown_grammar.h"

#define GS_LINE_MAX	(2 * PATH_MAX)
#define GS_SIGNAL_MAX	64

static bool gs_is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool gs_is_octal(char c)
{
	return c >= '0' && c <= '7';
}

/*
 * The next word at *@cursor, or NULL; *@len is its length. *@cursor moves past
 * the blank behind it, so that this byte may be overwritten.
 */
static char *gs_next_word(char **cursor, char *end, size_t *len)
{
	char *word = *cursor;
	char *p;

	while (word < end && gs_is_blank(*word))
		word++;
	for (p = word; p < end && !gs_is_blank(*p); p++)
		;
	*cursor = p < end ? p + 1 : p;
	*len = p - word;
	return *len ? word : NULL;
}

/* A decimal number from 1 to @max, nothing else; 0 if it is not one. */
static unsigned int gs_number(const char *s, size_t len, unsigned int max)
{
	unsigned long long n = 0;
	size_t i;

	if (!len || len > 10)
		return 0;
	for (i = 0; i < len; i++) {
		if (!isdigit((unsigned char)s[i]))
			return 0;
		n = n * 10 + (s[i] - '0');
	}
	return n <= max ? n : 0;
}

/* Unescape @len bytes of @src into @dst, which may be the same memory. */
static int gs_unescape(char *dst, const char *src, size_t len)
{
	size_t i = 0, out = 0;

	while (i < len) {
		unsigned int c = (unsigned char)src[i];

		if (c != '\\') {
			dst[out++] = c;
			i++;
			continue;
		}
		if (len - i < 4 || !gs_is_octal(src[i + 1]) ||
		    !gs_is_octal(src[i + 2]) || !gs_is_octal(src[i + 3]))
			return -EINVAL;
		c = (src[i + 1] - '0') << 6 | (src[i + 2] - '0') << 3 |
		    (src[i + 3] - '0');
		if (!c || c > 0377)
			return -EINVAL;
		dst[out++] = c;
		i += 4;
	}
	return out;
}

/* The value in @word, which is @len bytes long, if it begins with @key; or NULL. */
static const char *gs_value(const char *word, size_t *len, const char *key)
{
	size_t skip = strlen(key);

	if (*len <= skip || memcmp(word, key, skip))
		return NULL;
	*len -= skip;
	return word + skip;
}

/* Each option may be given once. */
static int gs_parse_number(const char *value, size_t len, unsigned int max,
			   unsigned int *number)
{
	if (*number)
		return -EINVAL;
	*number = gs_number(value, len, max);
	return *number ? 0 : -EINVAL;
}

static int gs_parse_scope(const char *value, size_t len, enum gs_scope *scope)
{
	if (*scope)
		return -EINVAL;
	if (len == strlen("tree") && !memcmp(value, "tree", len))
		*scope = GS_SCOPE_TREE;
	else if (len == strlen("process") && !memcmp(value, "process", len))
		*scope = GS_SCOPE_PROCESS;
	return *scope ? 0 : -EINVAL;
}

static int gs_parse_option(const char *word, size_t len,
			   unsigned int max_grace_ms, struct gs_line *line)
{
	const char *value;

	value = gs_value(word, &len, "grace_ms=");
	if (value)
		return gs_parse_number(value, len, max_grace_ms,
				       &line->grace_ms);
	value = gs_value(word, &len, "signal=");
	if (value)
		return gs_parse_number(value, len, GS_SIGNAL_MAX,
				       &line->signal);
	value = gs_value(word, &len, "scope=");
	return value ? gs_parse_scope(value, len, &line->scope) : -EINVAL;
}

static int gs_parse_words(char *word, size_t len, char *cursor, char *end,
			  struct gs_line *line)
{
	char *out = word;
	int n;

	line->words = word;
	for (; word; word = gs_next_word(&cursor, end, &len)) {
		n = gs_unescape(out, word, len);
		if (n < 0)
			return n;
		if (!line->argc && n >= PATH_MAX)
			return -ENAMETOOLONG;
		out += n;
		/* Room for it: the blank after the word, or the byte at @end. */
		*out++ = '\0';
		line->argc++;
	}
	line->words_len = out - line->words;
	return 0;
}

/**
 * gs_line_parse - parse one line
 * @text: the line without its newline; overwritten. text[len] must be writable
 * @len: its length
 * @max_grace_ms: the ceiling of grace_ms
 * @line: the result; points into @text
 *
 * Return: 0, -EINVAL, -E2BIG, or -ENAMETOOLONG.
 */
int gs_line_parse(char *text, size_t len, unsigned int max_grace_ms,
		  struct gs_line *line)
{
	char *cursor = text, *end = text + len;
	bool remove;
	char *word;
	size_t n;
	int err;

	memset(line, 0, sizeof(*line));
	if (len > GS_LINE_MAX)
		return -E2BIG;
	if (memchr(text, '\0', len))
		return -EINVAL;

	word = gs_next_word(&cursor, end, &n);
	if (!word || *text == '#')
		return 0;

	remove = *word == '-';
	line->pid = gs_number(word + remove, n - remove, INT_MAX);
	if (!line->pid)
		return -EINVAL;
	word = gs_next_word(&cursor, end, &n);
	if (remove) {
		line->kind = GS_LINE_REMOVE;
		return word ? -EINVAL : 0;
	}

	line->kind = GS_LINE_REGISTER;
	for (; word && *word != '/'; word = gs_next_word(&cursor, end, &n)) {
		err = gs_parse_option(word, n, max_grace_ms, line);
		if (err)
			return err;
	}
	if (!word)
		return line->signal ? 0 : -EINVAL;
	return gs_parse_words(word, n, cursor, end, line);
}

/**
 * gs_escape - write a word so that it stays one
 * @dst: where to
 * @size: room there
 * @src: the word
 *
 * Return: the bytes written, without the NUL byte that ends them; a word that
 * does not fit is cut.
 */
size_t gs_escape(char *dst, size_t size, const char *src)
{
	size_t out = 0;

	if (!size)
		return 0;
	for (; *src; src++) {
		unsigned char c = *src;
		bool plain = c != ' ' && c != '\t' && c != '\n' && c != '\\';

		if (out + (plain ? 1 : 4) >= size)
			break;
		if (plain) {
			dst[out++] = c;
			continue;
		}
		dst[out++] = '\\';
		dst[out++] = '0' + (c >> 6);
		dst[out++] = '0' + ((c >> 3) & 7);
		dst[out++] = '0' + (c & 7);
	}
	dst[out] = '\0';
	return out;
}
