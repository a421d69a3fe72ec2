"""The manual page and the completion for the shell, made from what --help says."""

from __future__ import annotations

import argparse

from . import __version__, arguments, backends, cli, procfile, runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Sequence

#: Columns of a help text, whatever the terminal is.
_WIDTH = 90


def page() -> str:
    """gs-oom(1) in roff. Source: the texts of --help of the command and of each of its words."""
    return "\n".join(
        [
            f'.TH GS-OOM 1 "" "gs-oom {__version__}" "User Commands"',
            ".SH NAME",
            "gs-oom \\- run a program before the OOM killer kills a process",
            ".SH DESCRIPTION",
            *_verbatim(cli.HELP),
            ".SH COMMANDS",
            *_sections(),
            ".SH FILES",
            *_verbatim(_FILES),
            ".SH SEE ALSO",
            *_verbatim(_SEE_ALSO),
            "",
        ]
    )


_FILES = """\
/proc/graceful_shutdown            the registry: one line a process
/proc/graceful_shutdown_events     what happened: one line an event
/proc/graceful_shutdown_features   what this kernel offers
/proc/sys/vm/graceful_shutdown_*   its settings
"""

_SEE_ALSO = "choom(1), env(1), proc(5), cgroups(7), the kernel's mm/graceful_shutdown.rst"


def _sections() -> Iterator[str]:
    yield ".SS run"
    yield from _verbatim(runner.HELP)
    for name, parser in _commands().items():
        yield f".SS {name}"
        parser.formatter_class = _Formatter
        yield from _verbatim(parser.format_help())


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the page, not as the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_WIDTH)


def _verbatim(text: str) -> Iterator[str]:
    """Lines as they are. Source: groff_man(7), "Portability"."""
    yield ".nf"
    for line in text.rstrip("\n").split("\n"):
        escaped = line.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
        # A leading dot would be a request.
        yield f"\\&{escaped}" if escaped.startswith(".") else escaped
    yield ".fi"


def _commands() -> dict[str, argparse.ArgumentParser]:
    """Each command but `run`, which has a scanner of its own."""
    for action in cli.parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the command has no commands")


def bash_completion() -> str:
    """A script for bash. Its words are those that the parsers know."""
    cases = []
    for name, parser in _commands().items():
        options = [word for action in parser._actions for word in action.option_strings]
        places = [action for action in parser._actions if not action.option_strings]
        cases.append(_CASE.format(name=name, options=" ".join(options), words=_words(places)))
    run = [*arguments.VALUED, *arguments.FLAGS, *arguments.HELP]
    return _BASH.format(
        commands=" ".join([*cli.COMMANDS, "--help", "--version"]),
        run=" ".join(run),
        valued="|".join(arguments.VALUED),
        scopes=" ".join(procfile.SCOPES),
        backends=" ".join(backends.NAMES),
        cases="\n".join(cases),
    )


def _words(places: Sequence[argparse.Action]) -> str:
    """What may stand where no option does: a shell expression."""
    if any(action.dest == "pid" for action in places):
        return "$(cd /proc && echo [0-9]*)"
    return " ".join(str(word) for action in places for word in action.choices or ())


_CASE = """\
        {name}) words="{options} {words}" ;;"""

_BASH = """\
# bash completion for gs-oom
_gs_oom() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} words="" at
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{commands}" -- "$current")
        return
    fi
    case $previous in
        --on-oom) mapfile -t COMPREPLY < <(compgen -c -- "$current"); return ;;
        --scope) mapfile -t COMPREPLY < <(compgen -W "{scopes}" -- "$current"); return ;;
        --backend) mapfile -t COMPREPLY < <(compgen -W "{backends}" -- "$current"); return ;;
        --user) mapfile -t COMPREPLY < <(compgen -u -- "$current"); return ;;
        --signal)
            words=$(compgen -A signal | sed -n 's/^SIG//p')
            mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
            return ;;
        --grace|--wait|--timeout|--memory-max|--swap-max) return ;;
    esac
    case ${{COMP_WORDS[1]}} in
        run)
            if [[ $current == -* ]]; then
                words="{run}"
            else
                # The first word that is neither an option nor an option's value is PROG.
                for ((at = 2; at < COMP_CWORD; at++)); do
                    case ${{COMP_WORDS[at]}} in
                        {valued}) ((at++)) ;;
                        -*) ;;
                        *) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
                    esac
                done
                mapfile -t COMPREPLY < <(compgen -c -- "$current")
                return
            fi ;;
{cases}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o filenames -F _gs_oom gs-oom
"""
