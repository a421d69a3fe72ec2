"""The command, `gs-oom` and `gs`: its words, its exit codes, and the way to Ghostscript.

Each command imports what it needs when it runs; `run` goes past all of this.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Callable, NoReturn, Sequence

    from .eventstream import EventStream, OomEvent
    from .registry import Registration

COMMANDS = (
    *("run", "register", "unregister", "list", "watch", "ps"),
    *("doctor", "explain", "exporter", "module", "completion"),
)
HELP_WORDS = ("-h", "--help", "help")

HELP = """\
usage: gs-oom COMMAND [OPTION...]

Runs a program of your choice before the OOM killer kills a process.

  run PROG [ARG...] --on-oom HANDLER   start a program that is protected
  register PID --on-oom HANDLER        protect a process that runs already
  unregister PID                       take that back
  list                                 what is registered
  watch                                follow what the OOM killer does
  ps                                   processes as it weighs them, and whom it would choose
  doctor                               what this machine offers, and what is in the way
  explain [FILE]                       what a kernel log tells of its OOMs: who, where, and why
  exporter                             what the OOM killer did, as figures for Prometheus
  module build|load|unload|status      the module for a kernel that is not patched
  completion bash                      what completes these words in a shell

`gs-oom COMMAND --help` says more of each. The first thing to try, as root:

  gs-oom run --on-oom "sh -c 'ps aux > /var/tmp/last-words'" --memory-max 100M -- tail /dev/zero

Exit codes: 0 good, 2 usage, 3 this machine cannot, 4 no such process, 5 permission, 6 handler
unusable. `run` ends as its program does; 125, 126 and 127 as in env(1).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the command; ``argv`` without the program's own name."""
    words = list(sys.argv[1:] if argv is None else argv)
    _print_any_bytes()
    if words and words[0] == "run":
        from . import errors, runner

        return _with_output(lambda: runner.main(words[1:]), errors.RUN_FAILED)
    _hand_over_to_ghostscript(words)
    return _with_output(lambda: _dispatch(words), 1)


def _with_output(command: Callable[[], int], failed: int) -> int:
    """What a command ends with; ``failed`` where its output could not be written."""
    try:
        try:
            return command()
        finally:
            if sys.stdout is not None:  # it was closed by the caller
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141  # the reader has gone
    except OSError as error:
        _drop_output()
        _complain(f"cannot write {error.filename or 'the output'}: {error.strerror}")
        return failed


def _drop_output() -> None:
    """What is still buffered must not raise again at the exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_any_bytes() -> None:
    """Paths and the names of processes are bytes; a strict UTF-8 locale must not end us at one."""
    for stream in (sys.stdout, sys.stderr):
        # Neither where a test or an embedding program has put something else in its place.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="surrogateescape")


def _dispatch(words: list[str]) -> int:
    if not words:
        print(HELP, end="", file=sys.stderr)
        _name_the_shadowed()
        return 2
    if words[0] in HELP_WORDS:
        print(HELP, end="")
        _name_the_shadowed()
        return 0
    if words[0] == "--version":
        from . import __version__

        print(f"gs-oom {__version__}")
        return 0
    if words[0] not in COMMANDS:
        _complain(f"unknown command {words[0]!r}; there are {', '.join(COMMANDS)}")
        return 2
    from .errors import GsError

    try:
        return _parse_and_run(words)
    except GsError as error:
        _complain(error)
        return error.exit_code


def _complain(text: object) -> None:
    print(f"gs-oom: {text}", file=sys.stderr)


def _hand_over_to_ghostscript(words: list[str]) -> None:
    """Called as `gs` with a word that is not ours: exec the Ghostscript further on PATH, if any."""
    from .shadowing import ghostscript, is_called_gs

    if words and words[0] not in (*COMMANDS, *HELP_WORDS) and is_called_gs(sys.argv[0]):
        path = ghostscript(sys.argv[0])
        if path is not None:
            os.execv(path, ["gs", *words])


def _name_the_shadowed() -> None:
    """Who is shown our help for `gs` may have meant another program of that name."""
    from .shadowing import ghostscript, is_called_gs

    path = ghostscript(sys.argv[0]) if is_called_gs(sys.argv[0]) else None
    if path is not None:
        _complain(f"this gs shadows {path} (Ghostscript?); words that are not ours go on to it")


# ---------------------------------------------------------------------------- the commands


def _parse_and_run(words: list[str]) -> int:
    top, _ = parsers()
    options = top.parse_args(words)
    code: int = options.function(options)
    return code


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """That of the whole command line but `run`, and those of the commands by their names."""
    import argparse

    from .errors import UsageError

    class Parser(argparse.ArgumentParser):
        """Says what is wrong as all of gs does: in one line, with what to do."""

        def error(self, message: str) -> NoReturn:
            raise UsageError(self.prog.partition(" ")[2], message, f"see: {self.prog} --help")

    # No abbreviations: a later option must not change the meaning of a script.
    top = Parser(prog="gs-oom", add_help=False, allow_abbrev=False)
    commands = top.add_subparsers(dest="command")
    by_name: dict[str, argparse.ArgumentParser] = {}

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            name,
            description=text,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(function=function)
        by_name[name] = parser
        return parser

    _add_register(command)
    _add_unregister(command)
    _add_list(command)
    _add_watch(command)
    _add_ps(command)
    _add_doctor(command)
    _add_explain(command)
    _add_exporter(command)
    _add_module(command)
    _add_completion(command)
    return top, by_name


if TYPE_CHECKING:
    Adder = Callable[
        [str, Callable[[argparse.Namespace], int], str],
        argparse.ArgumentParser,
    ]


def _add_register(add: Adder) -> None:
    from . import procfile

    parser = add(
        "register",
        _register,
        """\
Have the kernel run HANDLER before its OOM killer kills process PID. A process that is registered
again gets the new handler. The registration ends with the process, and survives an exec.

  gs-oom register 4711 --on-oom "/usr/local/bin/save-state --fast" --grace 5s
  gs-oom register 4711 --signal TERM     for a program that saves its state by itself""",
    )
    parser.add_argument("pid", type=_pid, metavar="PID")
    parser.add_argument(
        "--on-oom",
        metavar="HANDLER",
        help="program to run, with arguments in shell quoting; found on PATH",
    )
    parser.add_argument("--grace", metavar="TIME", help="how long it may take: 5s, 500ms, 2m")
    parser.add_argument(
        "--signal",
        metavar="SIG",
        help="also send the process this signal, as TERM or 15; alone if there is no --on-oom",
    )
    parser.add_argument(
        "--scope",
        choices=procfile.SCOPES,
        default=procfile.DEFAULT_SCOPE,
        help="whom it covers: the process alone (default), or its descendants too",
    )
    _add_json(parser)


def _pid(text: str) -> int:
    """A number in digits alone; int() would know underscores, and the digits of other scripts.

    Whether a process can have it is not a matter of usage.
    """
    import argparse

    digits = text[1:] if text.startswith("-") else text
    if len(text) > 30 or not (digits.isdigit() and digits.isascii()):
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is no process number")
    return int(text)


def _register(options: argparse.Namespace) -> int:
    from . import arguments, registry

    registration = registry.register(
        options.pid,
        None if options.on_oom is None else arguments.split_words(options.on_oom),
        None if options.grace is None else arguments.parse_grace(options.grace),
        None if options.signal is None else arguments.parse_signal(options.signal),
        options.scope,
    )
    if options.json:
        _print_json(_as_json(registration))
    else:
        print(f"registered: {registration.line}")
    return 0


def _add_unregister(add: Adder) -> None:
    parser = add("unregister", _unregister, "Take the registration of process PID back.")
    parser.add_argument("pid", type=_pid, metavar="PID")


def _unregister(options: argparse.Namespace) -> int:
    from . import registry

    registry.unregister(options.pid)
    return 0


def _add_list(add: Adder) -> None:
    parser = add("list", _list, "Show what is registered: one line a process.")
    _add_json(parser)


def _list(options: argparse.Namespace) -> int:
    import shlex

    found = _registrations()
    if options.json:
        _print_json([_as_json(registration) for registration in found])
        return 0
    print(_LIST_ROW.format("PID", "COMMAND", "GRACE", "SIGNAL", "SCOPE", "HANDLER"))
    for one in found:
        grace = "default" if one.grace is None else f"{one.grace:g}s"
        signal = "-" if one.signal is None else _signal_name(one.signal)
        handler = _printable(" ".join(map(shlex.quote, one.argv))) or "-"
        owner = "" if one.uid is None else f"  (uid {one.uid})"
        print(_LIST_ROW.format(one.pid, _comm(one.pid), grace, signal, one.scope, handler + owner))
    return 0


def _registrations() -> list[Registration]:
    """The kernel's, and those of the runs that have guards instead."""
    from . import registry, runfile
    from .errors import NotSupported

    guarded = [registry.Registration.from_entry(entry) for entry in runfile.guarded()]
    try:
        return registry.registrations() + guarded
    except NotSupported:
        if not guarded and not _has_guards():
            raise
        return guarded


def _has_guards() -> bool:
    """Whether `gs run` could have had guards here instead of the kernel."""
    from . import backends, scope
    from .errors import GsError

    try:
        return backends.select("auto").name != "kernel"
    except GsError:
        return scope.is_available()


_LIST_ROW = "{:>7}  {:<15}  {:>9}  {:<6}  {:<7}  {}"


def _signal_name(number: int) -> str:
    """As kill(1) calls it; its number where it has no name."""
    import signal

    try:
        return signal.Signals(number).name[len("SIG") :]
    except ValueError:
        return str(number)


def _as_json(registration: Registration) -> dict[str, object]:
    return {**registration.as_dict(), "line": registration.line}


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return _printable(file.read().rstrip("\n"))
    except OSError:
        return "?"


def _add_watch(add: Adder) -> None:
    parser = add(
        "watch",
        _watch,
        """\
Follow what the OOM killer does on this machine, one line an event, from the oldest that was kept:
what the kernel tells, and what the guards of programs on memory cgroups do. Ends with Ctrl-C, with
--timeout, or at once with --no-follow.

  grace    a registered process was chosen: its handler is being started, its signal sent
  done     the handler ended in time       timeout  it did not, and was killed
  failed   it could not be started         averted  there is memory again, nothing is killed
  gone     the process ended by itself     kill     the OOM killer kills (registered or not)
           with outcome=: what came of its handler; signal: it had a signal and no handler
  lost     events that were overwritten before they were read""",
    )
    parser.add_argument("--pid", type=_pid, metavar="PID", help="only events of this process")
    parser.add_argument("--new", action="store_true", help="leave out what is there already")
    parser.add_argument("--no-follow", action="store_true", help="end with the last one there is")
    parser.add_argument("--timeout", metavar="TIME", help="end after this time: 30s, 5m")
    parser.add_argument("--raw", action="store_true", help="the kernel's own lines")
    _add_json(parser, "one object a line")


def _watch(options: argparse.Namespace) -> int:
    from . import arguments
    from .eventstream import EventStream

    timeout = None if options.timeout is None else arguments.parse_grace(options.timeout)
    with EventStream(follow=not options.no_follow, timeout=timeout) as stream:
        if stream.left_out is not None:
            _complain(f"the kernel's own events are left out: {stream.left_out}")
        if options.new:
            stream.available()
        _ending_at_ctrl_c(lambda: _print_events(stream, options))
    return 0


def _ending_at_ctrl_c(wait: Callable[[], None]) -> None:
    """Have the kernel end this process, which has nothing to clean up, by SIGINT.

    Python looks for signals between its instructions only: one that came right before poll(2) was
    slept through, until the next event, which may be days later.
    """
    import _signal  # type: ignore[import-not-found]

    usual = _signal.default_int_handler
    if _signal.getsignal(_signal.SIGINT) is not usual:
        wait()  # ignored in the background of a shell, or another's who calls us
        return
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        wait()
    finally:
        _signal.signal(_signal.SIGINT, usual)


def _print_events(stream: EventStream, options: argparse.Namespace) -> None:
    told = False
    for event in stream:
        told = told or _tell_of_skipped(stream)
        if options.pid in (None, event.pid) or event.event == "lost":
            print(_event_line(event, options), flush=True)
    if not told:
        _tell_of_skipped(stream)


def _tell_of_skipped(stream: EventStream) -> bool:
    if stream.skipped:
        _complain("there are bad lines in the log of guarded runs; they are left out")
    return stream.skipped > 0


def _event_line(event: OomEvent, options: argparse.Namespace) -> str:
    if options.raw:
        return event.line
    if options.json:
        import json

        return json.dumps(event.data)
    return describe(event)


_SHOWN_ELSEWHERE = ("seq", "time_ns", "event", "pid", "comm", "uid", "constraint", "memcg")


def describe(event: OomEvent) -> str:
    """One event for people: when, what, who, where, and the figures that the kernel could tell."""
    start = f"{event.time:12.6f} {event.event:<8}"
    if event.event == "lost":
        return f"{start} {event['count']} events were overwritten before they were read"
    place = event["constraint"] if event["memcg"] is None else event["memcg"]
    figures = [
        f"{key}={_signal_name(value) if key == 'signal' and isinstance(value, int) else value}"
        for key, value in event.data.items()
        if key not in _SHOWN_ELSEWHERE and value is not None
    ]
    return _printable(" ".join([start, f"{event.pid} ({event.comm})", f"in {place}:", *figures]))


def _add_ps(add: Adder) -> None:
    parser = add(
        "ps",
        _ps,
        """\
Show the processes as the OOM killer weighs them, as a tree, and whom it would choose now: if the
whole machine ran out of memory, and if a memory cgroup with a limit reached it. Kernel threads are
left out. Changes nothing, and needs no rights beyond what /proc shows.

  SCORE   /proc/PID/oom_score; - of whom the kernel never chooses        ADJ   oom_score_adj
  USED    what is charged to its memory cgroup, CGROUP                   GRP   memory.oom.group
  LIMIT   of this cgroup; with ^ the nearest limit of one further up
  REG     its registration: own, or tree, by an ancestor's; ? if the registry cannot be read

  gs-oom ps --sort score | head                    who stands first in the whole machine
  gs-oom ps --cgroup /system.slice --extended      one part of it, with command lines""",
    )
    parser.add_argument(
        "-e",
        "--extended",
        action="store_true",
        help="whole command lines, quoted for a shell, control characters escaped",
    )
    parser.add_argument(
        "--sort", choices=("tree", "score"), default="tree", help="no tree: the highest score first"
    )
    parser.add_argument("--cgroup", metavar="PATH", help="only this memory cgroup and those below")
    _add_json(parser)


def _ps(options: argparse.Namespace) -> int:
    from . import cgroup, paths, ps, pstable

    where = cgroup.hierarchy(paths.procfs())
    within = None if options.cgroup is None else ps.group_path(options.cgroup, where)
    snapshot = ps.look(paths.procfs(), where)
    said = ps.report(
        snapshot,
        *ps.covering(where),
        within=within,
        by_score=options.sort == "score",
        with_commands=options.extended,
    )
    if options.json:
        _print_json(ps.as_json(said))
    else:
        print(pstable.text(said, _columns()), end="")
    return 0


def _columns() -> int | None:
    """Those of the terminal; None where the output goes elsewhere, which may take any width."""
    import shutil

    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def _printable(text: str) -> str:
    from .printable import printable

    return printable(text)


def _add_doctor(add: Adder) -> None:
    parser = add(
        "doctor",
        _doctor,
        """\
Say what this machine offers, which backend `gs-oom run` would take and why, what is in the way,
and the command that mends it. Changes nothing. Exit code 0 if a program can be protected here,
else 3.

With --on-oom it also looks at a handler, and runs it once, here and now, as the kernel would: for
a process that is made for this, with the same environment, and killed when its time is over.

  gs-oom doctor --on-oom "/usr/local/bin/save-state --fast" --grace 5s""",
    )
    parser.add_argument("--on-oom", metavar="HANDLER", help="also try this handler")
    parser.add_argument("--grace", metavar="TIME", help="the time that it will have")
    _add_json(parser)


def _doctor(options: argparse.Namespace) -> int:
    from . import arguments, registry
    from .doctor import can_protect, examine, examine_handler, report
    from .errors import UsageError

    grace = None if options.grace is None else arguments.parse_grace(options.grace)
    findings = examine()
    if options.on_oom is not None:
        argv = registry.handler_argv(arguments.split_words(options.on_oom))
        registry.milliseconds(grace)
        findings += examine_handler(argv, grace)
    elif grace is not None:
        raise UsageError("doctor", "--grace alone tries nothing", "give --on-oom HANDLER too")
    if options.json:
        _print_json([finding.as_dict() for finding in findings])
    else:
        print(report(findings), end="")
    return 0 if can_protect(findings) else 3


def _add_explain(add: Adder) -> None:
    parser = add(
        "explain",
        _explain,
        """\
Say what a kernel log tells of each OOM: who asked for memory, which limit was met, what memory was
made of, who was chosen, whether the same comes out when the kernel's list of processes is weighed
again, and what is worth knowing. Repeated OOMs of one domain are one incident. What the log does
not hold is said to be "not in the log".

The log is FILE (dmesg, journalctl, syslog, /dev/kmsg; - is standard input), the journal's, or, with
neither, what the running kernel still holds. Kernels 3.10 to 6.12.

  gs-oom explain /var/log/kern.log
  ssh node dmesg | gs-oom explain -
  gs-oom watch --raw --no-follow > events; gs-oom explain dmesg.txt --events events""",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a kernel log; - is standard input")
    parser.add_argument("--journal", action="store_true", help="the journal's, of this boot")
    parser.add_argument(
        "--events",
        metavar="EVENTS",
        help="where `gs-oom watch --raw` was written, for what came of handlers; of the running"
        " machine they are known without",
    )
    _add_json(parser)


def _explain(options: argparse.Namespace) -> int:
    from .errors import UsageError
    from .oomlog import explain, sources, words

    if options.journal and options.file is not None:
        raise UsageError("explain", "--journal and a FILE", "give one of them")
    is_here = options.file is None
    if options.journal:
        blocks = sources.of_journal()
    else:
        blocks = sources.of_kernel() if is_here else sources.of_file(options.file)
    if options.events is not None:
        events = sources.events_of_file(options.events)
    else:
        events = sources.events_of_machine() if is_here else []
    explanation = explain(blocks, events)
    if options.json:
        _print_json(explanation.as_dict())
        return 0
    for line in words.lines(explanation):
        print(_printable(line))
    return 0


def _add_exporter(add: Adder) -> None:
    parser = add(
        "exporter",
        _exporter,
        """\
Count what the OOM killer and the handlers do on this machine, for Prometheus: from the events of a
kernel that has gs, from the guards of runs, else from the kernel log. Answers http://ADDRESS/metrics
until it is ended by a signal. Needs the Python package prometheus_client (pip install
'gs-oom[exporter]', or apt-get install python3-prometheus-client).

Counts go on after a restart, and a reboot; what was overwritten before it could be read is counted
as lost. One exporter at a time uses a state directory.

  gs-oom exporter                                    for Prometheus on this machine
  gs-oom exporter --once                             have a look
  gs-oom exporter --textfile /var/lib/prometheus/node-exporter/gs.prom""",
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="HOST:PORT to answer on (default 127.0.0.1:9262); without --once and --textfile",
    )
    parser.add_argument("--once", action="store_true", help="print the figures of now, and end")
    parser.add_argument(
        "--textfile",
        metavar="FILE",
        help="keep this file up to date instead, for node_exporter; with --once write it once",
    )
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="where counts are kept (default /var/lib/gs-oom-exporter; of a user the same in"
        " ~/.local/state)",
    )


def _exporter(options: argparse.Namespace) -> int:
    from .exporter import command

    command.run(options.listen, options.once, options.textfile, options.state)
    return 0


def _add_module(add: Adder) -> None:
    parser = add(
        "module",
        _module,
        """\
The module gives a kernel that is not patched what a patched one has, but for what `gs-oom doctor`
names. Its sources come with the package gs-oom-dkms.

  build    have DKMS build it for the running kernel     load     put it in
  unload   take it out: registrations are dropped        status   where it stands

While a grace runs or an event stream is open it stays: `unload --wait 30s` tries again.""",
    )
    parser.add_argument("action", choices=("build", "load", "unload", "status"))
    parser.add_argument("--wait", metavar="TIME", help="unload: how long to try: 30s, 2m")
    _add_json(parser)


def _module(options: argparse.Namespace) -> int:
    from . import arguments, module
    from .errors import UsageError

    if options.wait is not None and options.action != "unload":
        raise UsageError("module", f"{options.action} does not wait", "leave --wait out")
    wait = 0.0 if options.wait is None else arguments.parse_grace(options.wait)
    if options.action == "unload":
        module.unload(wait, tell=lambda text: print(text, file=sys.stderr))
    elif options.action == "build":
        module.build()
    elif options.action == "load":
        module.load()
    now = module.status()
    if options.json:
        _print_json(now.as_dict())
    else:
        for key, value in now.as_dict().items():
            print(f"{key:<12} {_as_word(value)}")
    return 0


def _add_completion(add: Adder) -> None:
    parser = add(
        "completion",
        _completion,
        """\
Print what makes a shell complete the words of this command. The Debian package brings it along;
elsewhere:

  eval "$(gs-oom completion bash)\"""",
    )
    parser.add_argument("shell", choices=("bash",))


def _completion(options: argparse.Namespace) -> int:
    from . import manual

    del options  # there is one shell
    print(manual.completion(), end="")
    return 0


def _as_word(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value == "" else value


def _add_json(parser: argparse.ArgumentParser, text: str = "for programs") -> None:
    parser.add_argument("--json", action="store_true", help=f"JSON, {text}")


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2))
