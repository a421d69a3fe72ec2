"""Names and words of strangers, made safe for a terminal and for a shell."""

from __future__ import annotations

import os

_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}


def printable(text: str) -> str:
    """A process may call itself what it likes; what steers a terminal is shown, not obeyed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell_word(word: str) -> str:
    """The word as bash and other shells with $'...' read it, in printable characters alone."""
    if word.isprintable():
        import shlex

        return shlex.quote(word)
    return "$'" + "".join(map(_in_dollar_quotes, word)) + "'"


def _in_dollar_quotes(c: str) -> str:
    if c in _SHORT:
        return _SHORT[c]
    if c.isprintable():
        return c
    # Three octal digits, since a hexadecimal escape could go on into what follows it.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(c))
