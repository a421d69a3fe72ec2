"""The shared table of registry lines: what a writer may say to /proc/graceful_shutdown.

Both parsers are tested with it: gs/procfile.py by the unit tests, the kernel's by the guest
tests. So this file is plain data, needs nothing but Python 3.8, and says nothing of either.

Placeholders, filled in by :func:`fill`: ``{pid}`` a live process that may be registered,
``{exe}`` a regular executable file, ``{dir}`` a directory, ``{noexec}`` a regular file without
execute permission. Their paths contain no byte that needs an escape.

An entry is what one write(2) is given, mostly one line without its newline.
"""

from __future__ import annotations

PATH_MAX = 4096

#: (what is written, what the entry reads back as, why it is in the table)
GOOD: list[tuple[str, str, str]] = [
    ("{pid} {exe}", "{pid} {exe}", "the seed's form"),
    ("{pid} {exe}\n", "{pid} {exe}", "with the newline that echo adds"),
    ("\n\n{pid} {exe}\n\n", "{pid} {exe}", "blank lines are ignored"),
    ("# a comment\n{pid} {exe}\n", "{pid} {exe}", "comments are ignored"),
    ("#{pid} /nowhere\n{pid} {exe}\n", "{pid} {exe}", "a comment may hold a whole line"),
    ("#\n{pid} {exe}", "{pid} {exe}", "an empty comment; last newline missing"),
    ("{pid}  {exe}", "{pid} {exe}", "two blanks separate like one"),
    ("{pid}\t{exe}", "{pid} {exe}", "a tab separates"),
    ("{pid} {exe} ", "{pid} {exe}", "a blank at the end adds no empty argument"),
    ("{pid} {exe} one", "{pid} {exe} one", "one argument"),
    ("{pid} {exe} one two  three", "{pid} {exe} one two three", "several arguments"),
    ("{pid} grace_ms=1500 {exe}", "{pid} grace_ms=1500 {exe}", "an option"),
    ("{pid} grace_ms=1 {exe}", "{pid} grace_ms=1 {exe}", "the shortest grace"),
    ("{pid} grace_ms=30000 {exe}", "{pid} grace_ms=30000 {exe}", "the longest grace"),
    ("{pid} grace_ms=1500 {exe} a b", "{pid} grace_ms=1500 {exe} a b", "option and arguments"),
    ("{pid} signal=15 {exe}", "{pid} signal=15 {exe}", "a signal and a handler"),
    ("{pid} signal=15 {exe} a b", "{pid} signal=15 {exe} a b", "and arguments of the handler"),
    ("{pid} signal=9", "{pid} signal=9", "a signal alone"),
    ("{pid} signal=9 ", "{pid} signal=9", "a signal alone and a blank"),
    ("{pid}\tsignal=9\n", "{pid} signal=9", "a signal alone behind a tab"),
    ("{pid} signal=1", "{pid} signal=1", "the first signal"),
    ("{pid} signal=64 {exe}", "{pid} signal=64 {exe}", "the last signal"),
    ("{pid} signal=015 {exe}", "{pid} signal=15 {exe}", "a zero in front means nothing"),
    ("{pid} scope=tree {exe}", "{pid} scope=tree {exe}", "descendants too"),
    ("{pid} scope=process {exe}", "{pid} {exe}", "a default is not written"),
    ("{pid} scope=process signal=15", "{pid} signal=15", "the same without a path"),
    ("{pid} signal=15 scope=tree", "{pid} signal=15 scope=tree", "a signal alone, for a tree"),
    ("{pid} signal=15 grace_ms=7", "{pid} grace_ms=7 signal=15", "its time comes first"),
    (
        "{pid} grace_ms=7 signal=15 scope=tree {exe} a",
        "{pid} grace_ms=7 signal=15 scope=tree {exe} a",
        "all options in their order",
    ),
    (
        "{pid} scope=tree signal=15 grace_ms=7 {exe} a",
        "{pid} grace_ms=7 signal=15 scope=tree {exe} a",
        "all options in another order",
    ),
    ("{pid} {exe} signal=9", "{pid} {exe} signal=9", "an argument like a signal"),
    ("{pid} {exe} scope=tree", "{pid} {exe} scope=tree", "an argument like a scope"),
    ("{pid} {exe}\n{pid} signal=9\n", "{pid} signal=9", "a signal in the place of a handler"),
    ("{pid} {exe} grace_ms=7", "{pid} {exe} grace_ms=7", "after the path a word is an argument"),
    ("{pid} {exe} nonsense=1", "{pid} {exe} nonsense=1", "even if it looks like a bad option"),
    ("{pid} {exe} -5", "{pid} {exe} -5", "an argument may look like a removal"),
    ("{pid} {exe} #x", "{pid} {exe} #x", "an argument may begin with #"),
    ("{pid} {exe} /other/path", "{pid} {exe} /other/path", "an argument may be a path"),
    ("{pid} {exe} a\\040b", "{pid} {exe} a\\040b", "escaped space"),
    ("{pid} {exe} a\\011b", "{pid} {exe} a\\011b", "escaped tab"),
    ("{pid} {exe} a\\012b", "{pid} {exe} a\\012b", "escaped newline"),
    ("{pid} {exe} a\\134b", "{pid} {exe} a\\134b", "escaped backslash"),
    ("{pid} {exe} \\040", "{pid} {exe} \\040", "an argument that is one space"),
    ("{pid} {exe} \\134040", "{pid} {exe} \\134040", "an escaped backslash before digits"),
    ("{pid} {exe} \\1011", "{pid} {exe} A1", "three digits end an escape; needless ones go away"),
    ("{pid} {exe} caf\u00e9", "{pid} {exe} caf\u00e9", "bytes above 127 are ordinary"),
    ("{pid} {exe} ' \"", "{pid} {exe} ' \"", "quotes mean nothing"),
    ("{pid} {exe} $HOME `x` *", "{pid} {exe} $HOME `x` *", "nor does anything of a shell's"),
    ("{pid} {exe} " + "x" * 3000, "{pid} {exe} " + "x" * 3000, "a long argument"),
    ("{pid} {exe}" + " y" * 1000, "{pid} {exe}" + " y" * 1000, "many arguments"),
    ("{pid} {exe} a\n{pid} {exe} b\n", "{pid} {exe} b", "of two commands the later one stands"),
]

#: (what is written, the errno of write(2), why)
BAD: list[tuple[str, str, str]] = [
    # the pid
    ("{exe}", "EINVAL", "no pid"),
    ("{pid}", "EINVAL", "a pid alone"),
    ("{pid} ", "EINVAL", "a pid and a blank"),
    ("hello", "EINVAL", "a word"),
    ("hello {exe}", "EINVAL", "a name instead of a pid"),
    ("{exe} {pid}", "EINVAL", "the wrong way round"),
    ("+{pid} {exe}", "EINVAL", "a sign is no digit"),
    ("0x10 {exe}", "EINVAL", "pids are decimal"),
    ("{pid}x {exe}", "EINVAL", "letters after the pid"),
    ("{pid}.0 {exe}", "EINVAL", "a fraction"),
    ("{pid},{pid} {exe}", "EINVAL", "a list of pids"),
    ("{pid}/task {exe}", "EINVAL", "a path in the pid"),
    ("{pid}:{exe}", "EINVAL", "a colon instead of a blank"),
    ("{pid}={exe}", "EINVAL", "an equals sign instead of a blank"),
    ("0 {exe}", "EINVAL", "no process has the number 0"),
    ("99999999999999999999 {exe}", "EINVAL", "no number of any process"),
    ("* {exe}", "EINVAL", "no wildcards"),
    ("\\061 {exe}", "EINVAL", "an escape in the place of the pid"),
    ('"{pid}" {exe}', "EINVAL", "quotes around the pid"),
    ("// {pid} {exe}", "EINVAL", "that is not how a comment looks"),
    ("; {pid} {exe}", "EINVAL", "nor that"),
    ("1 {exe}", "ESRCH", "global init is never a victim"),
    ("4194304 {exe}", "ESRCH", "the first number that no process can have"),
    # removal
    ("-", "EINVAL", "a dash alone"),
    ("- {pid}", "EINVAL", "a blank in a removal"),
    ("--{pid}", "EINVAL", "two dashes"),
    ("-{pid} {exe}", "EINVAL", "a removal takes no path"),
    ("-{pid} -{pid}", "EINVAL", "one removal a line"),
    ("-{exe}", "EINVAL", "a removal by path"),
    ("-0", "EINVAL", "a removal of pid 0"),
    ("-0x10", "EINVAL", "a removal in hexadecimal"),
    ("-99999999999999999999", "EINVAL", "a removal of no number"),
    ("-4194304", "ESRCH", "a removal of a process that cannot be"),
    # the path
    ("{pid} true", "EINVAL", "a path that is not absolute"),
    ("{pid} ./true", "EINVAL", "a path relative to here"),
    ("{pid} ../bin/true", "EINVAL", "a path relative to above"),
    ("{pid} ~/handler", "EINVAL", "a path that only a shell understands"),
    ("{pid} '{exe}'", "EINVAL", "quotes around the path"),
    ('{pid} "{exe}"', "EINVAL", "double quotes around the path"),
    ("{pid} -- {exe}", "EINVAL", "dashes before the path"),
    ("{pid} -v {exe}", "EINVAL", "an option of another style"),
    ("{pid} {pid} {exe}", "EINVAL", "two pids"),
    ("{pid} = {exe}", "EINVAL", "an equals sign alone"),
    ("{pid} # {exe}", "EINVAL", "no comment behind a command"),
    ("{pid} /nowhere/at/all", "ENOENT", "a handler that does not exist"),
    ("{pid} {exe}.no", "ENOENT", "another one"),
    ("{pid} {exe}\\040x", "ENOENT", "the escape is part of the name"),
    ("{pid} {exe}\r", "ENOENT", "a line from DOS: the return is part of the name"),
    ("{pid} {dir}", "EACCES", "a directory"),
    ("{pid} /", "EACCES", "the root directory"),
    ("{pid} {noexec}", "EACCES", "a file without execute permission"),
    ("{pid} {noexec} arg", "EACCES", "the same with an argument"),
    ("{pid} /dev/null", "EACCES", "a device"),
    ("{pid} /" + "n" * PATH_MAX, "ENAMETOOLONG", "a path of more than PATH_MAX bytes"),
    ("{pid} /" + "n/" * (PATH_MAX // 2), "ENAMETOOLONG", "the same in many parts"),
    ("{pid} grace_ms=5 /" + "n" * PATH_MAX, "ENAMETOOLONG", "the same behind an option"),
    ("{pid} /" + "n" * PATH_MAX + " \\", "ENAMETOOLONG", "the path counts before the words behind"),
    # options
    ("{pid} grace_ms {exe}", "EINVAL", "an option without a value"),
    ("{pid} grace_ms= {exe}", "EINVAL", "an option with an empty value"),
    ("{pid} grace_ms=1500", "EINVAL", "neither path nor signal"),
    ("{pid} grace_ms=0 {exe}", "EINVAL", "a grace of nothing"),
    ("{pid} grace_ms=-1 {exe}", "EINVAL", "a grace in the past"),
    ("{pid} grace_ms=30001 {exe}", "EINVAL", "longer than max_grace_ms"),
    ("{pid} grace_ms=4294967297 {exe}", "EINVAL", "1 in 32 bits"),
    ("{pid} grace_ms=18446744073709551617 {exe}", "EINVAL", "1 in 64 bits"),
    ("{pid} grace_ms=1e3 {exe}", "EINVAL", "a float"),
    ("{pid} grace_ms=1.5 {exe}", "EINVAL", "a fraction"),
    ("{pid} grace_ms=0x10 {exe}", "EINVAL", "a hexadecimal number"),
    ("{pid} grace_ms=+5 {exe}", "EINVAL", "a sign is no digit"),
    ("{pid} grace_ms=5s {exe}", "EINVAL", "a unit"),
    ("{pid} grace_ms=5,signal=9 {exe}", "EINVAL", "a comma does not separate"),
    ("{pid} grace_ms=five {exe}", "EINVAL", "a word for a number"),
    ("{pid} grace_ms=\\065 {exe}", "EINVAL", "an escape for a digit"),
    ("{pid} grace_ms = 5 {exe}", "EINVAL", "blanks around the equals sign"),
    ("{pid} grace_ms==5 {exe}", "EINVAL", "two equals signs"),
    ("{pid} grace_ms=5 grace_ms=6 {exe}", "EINVAL", "an option twice"),
    ("{pid} GRACE_MS=5 {exe}", "EINVAL", "keys are in small letters"),
    ("{pid} grace=5 {exe}", "EINVAL", "a key that is nearly right"),
    ("{pid} grace-ms=5 {exe}", "EINVAL", "another one"),
    ("{pid} nonsense=1 {exe}", "EINVAL", "an unknown key"),
    ("{pid} =5 {exe}", "EINVAL", "a value without a key"),
    # signal and scope
    ("{pid} signal=0 {exe}", "EINVAL", "signal 0 tests, it does not signal"),
    ("{pid} signal=0", "EINVAL", "the same alone"),
    ("{pid} signal=65 {exe}", "EINVAL", "one beyond the last signal"),
    ("{pid} signal=65", "EINVAL", "the same alone"),
    ("{pid} signal=-9 {exe}", "EINVAL", "a process group is no signal"),
    ("{pid} signal=+9", "EINVAL", "a sign is no digit of a signal"),
    ("{pid} signal=4294967305", "EINVAL", "9 in 32 bits"),
    ("{pid} signal=0x9", "EINVAL", "a hexadecimal signal"),
    ("{pid} signal=x {exe}", "EINVAL", "a letter for a signal"),
    ("{pid} signal=TERM {exe}", "EINVAL", "signals are numbers here"),
    ("{pid} signal=SIGTERM", "EINVAL", "the same alone"),
    ("{pid} signal= {exe}", "EINVAL", "a signal without a number"),
    ("{pid} signal=", "EINVAL", "the same alone"),
    ("{pid} signal {exe}", "EINVAL", "a signal without a value"),
    ("{pid} signal=9 signal=9", "EINVAL", "a signal twice"),
    ("{pid} signal=9 signal=15 {exe}", "EINVAL", "two signals"),
    ("{pid} signal=9,15 {exe}", "EINVAL", "a list of signals"),
    ("{pid} signal=9 arg", "EINVAL", "arguments belong to a path"),
    ("{pid} signal=9 arg {exe}", "EINVAL", "an argument before the path"),
    ("{pid} signal=9 true", "EINVAL", "a signal and a path that is not absolute"),
    ("{pid} signal=9 #x", "EINVAL", "no comment behind a signal"),
    ("{pid} signal=9 nonsense=1", "EINVAL", "a signal and an unknown key"),
    ("{pid} signal=\\071", "EINVAL", "an escape for the digit of a signal"),
    ("{pid} SIGNAL=9", "EINVAL", "a signal in capitals"),
    ("{pid} sig=9 {exe}", "EINVAL", "a key that is nearly signal"),
    ("signal=9", "EINVAL", "a signal for nobody"),
    ("signal=9 {pid}", "EINVAL", "options come behind the pid"),
    ("-{pid} signal=9", "EINVAL", "a removal takes no signal"),
    ("{pid} scope=tree", "EINVAL", "a scope alone"),
    ("{pid} scope=process", "EINVAL", "the default scope alone"),
    ("{pid} grace_ms=5 scope=tree", "EINVAL", "a time and a scope, and nothing to do"),
    ("{pid} scope=other {exe}", "EINVAL", "a value that no key scope has"),
    ("{pid} scope=Tree {exe}", "EINVAL", "values are in small letters"),
    ("{pid} scope=trees {exe}", "EINVAL", "more than a value"),
    ("{pid} scope=tre {exe}", "EINVAL", "less than a value"),
    ("{pid} scope= {exe}", "EINVAL", "a scope without a value"),
    ("{pid} scope {exe}", "EINVAL", "a scope without an equals sign"),
    ("{pid} scope=1 {exe}", "EINVAL", "a number for a scope"),
    ("{pid} scope=tre\\145 {exe}", "EINVAL", "an escape in a value"),
    ("{pid} scope=tree scope=tree {exe}", "EINVAL", "a scope twice"),
    ("{pid} scope=process scope=process {exe}", "EINVAL", "the default scope twice"),
    ("{pid} scope=process scope=tree {exe}", "EINVAL", "two scopes"),
    ("{pid} scope=tree,process {exe}", "EINVAL", "a list of scopes"),
    ("-{pid} scope=tree", "EINVAL", "a removal takes no scope"),
    # escapes
    ("{pid} {exe} a\\", "EINVAL", "a backslash at the end"),
    ("{pid} {exe} a\\ b", "EINVAL", "a backslash before a blank: escapes are octal"),
    ("{pid} {exe} a\\nb", "EINVAL", "an escape of C"),
    ("{pid} {exe} a\\x20b", "EINVAL", "a hexadecimal escape"),
    ("{pid} {exe} a\\40", "EINVAL", "two digits"),
    ("{pid} {exe} a\\08a", "EINVAL", "not three octal digits"),
    ("{pid} {exe} a\\048", "EINVAL", "8 is no octal digit"),
    ("{pid} {exe} a\\400", "EINVAL", "more than a byte"),
    ("{pid} {exe} a\\000b", "EINVAL", "NUL ends a string in every program"),
    ("{pid} {exe}\\", "EINVAL", "a backslash at the end of the path"),
    ("{pid} {exe} a\\\\b", "EINVAL", "two backslashes: say \\134"),
    ("{pid} {exe} a\x00b", "EINVAL", "a NUL byte"),
    # the line
    ("{pid} {exe}" + " arg" * 4000, "E2BIG", "a line longer than 2 x PATH_MAX"),
    ("{pid} {exe} " + "z" * (2 * PATH_MAX), "E2BIG", "one argument that makes it so"),
    ("{pid} {exe}" + "\\040" * (2 * PATH_MAX // 4), "E2BIG", "the line counts as it is written"),
    # several commands in one write: all or none
    ("{pid} {exe}\nhello\n", "EINVAL", "a bad line after a good one"),
    ("hello\n{pid} {exe}\n", "EINVAL", "a bad line before a good one"),
    ("{pid} {exe}\n{pid} /nowhere/at/all\n", "ENOENT", "a missing handler after a good line"),
    ("{pid} {exe}\n4194304 {exe}\n", "ESRCH", "a missing process after a good line"),
    ("{pid} {exe}\n-4194304\n", "ESRCH", "a removal of nothing after a good line"),
    ("{pid} {exe}\n{pid} nonsense=1 {exe}", "EINVAL", "an unknown key, last newline missing"),
    ("# fine\n\n{pid} {exe}\n{pid} {dir}\n", "EACCES", "a directory after a good line"),
]

#: The keys of the ABI. A kernel names those that it understands in its features file; to one that
#: lacks a key every line with it is EINVAL.
KEYS = ("grace_ms", "signal", "scope")

#: Errors that the text alone shows; the others need a kernel that looks at files and processes.
FROM_THE_TEXT = ("EINVAL", "ENAMETOOLONG", "E2BIG")


def keys_in(text: str) -> set[str]:
    """The keys of the ABI that some word of the text names, an argument too."""
    return {key for key in KEYS for word in text.split() if word.startswith(f"{key}=")}


def fill(text: str, *, pid: int, exe: str, dir: str, noexec: str) -> str:
    """The text with its placeholders replaced (not str.format: other braces stay)."""
    values = {"{pid}": str(pid), "{exe}": exe, "{dir}": dir, "{noexec}": noexec}
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
