"""The man page gs-oom(1) and the completion of a shell, both made of what --help is made of."""

from __future__ import annotations

from . import __version__, arguments, backends, cli, procfile, runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Iterator

#: How bash finds the values of an option that are no files.
_VALUES = {
    "--backend": "compgen -W '{}'".format(" ".join(backends.NAMES)),
    "--on-oom": "compgen -c",
    "--scope": "compgen -W '{}'".format(" ".join(procfile.SCOPES)),
    "--signal": "compgen -A signal",
    "--sort": "compgen -W 'tree score'",
    "--user": "compgen -u",
}

_COMPLETION = """\
# bash completion of gs-oom; made by: gs-oom completion bash
_gs_oom() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W '{commands}' -- "$word")
        return
    fi
    case $before in
{values}
    esac
    case ${{COMP_WORDS[1]}} in
{options}
    esac
}}
complete -o default -F _gs_oom gs-oom
"""


def _options_of(parser: ArgumentParser) -> list[str]:
    """Its options, and the words that may stand in a place of their own."""
    words: list[str] = []
    for action in parser._actions:
        words += action.option_strings or list(action.choices or ())
    return words


def completion() -> str:
    """For bash: commands, options, and the values of those that are not files."""
    _, by_name = cli.parsers()
    words = {name: _options_of(parser) for name, parser in by_name.items()}
    words["run"] = [*arguments.VALUED, *arguments.FLAGS, *arguments.HELP]
    return _COMPLETION.format(
        commands=" ".join(cli.COMMANDS),
        values="\n".join(_reply(name, how, " return") for name, how in _VALUES.items()),
        options="\n".join(
            _reply(name, f"compgen -W '{' '.join(options)}'") for name, options in words.items()
        ),
    )


def _reply(case: str, how: str, then: str = "") -> str:
    words = f'mapfile -t COMPREPLY < <({how} -- "$word");'
    return f"    {case}) {words}{then} ;;"


# ---------------------------------------------------------------------------- the man page


def page() -> str:
    """gs-oom(1), as roff: what each --help says, as it stands."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield f'.TH GS-OOM 1 "" "gs-oom {__version__}" "User Commands"'
    yield ".SH NAME"
    yield r"gs\-oom \- run a program of your choice before the OOM killer kills a process"
    yield from _section("SYNOPSIS", cli.HELP)
    yield from _section("gs-oom run", runner.HELP)
    for name, parser in cli.parsers()[1].items():
        yield from _section(f"gs-oom {name}", parser.format_help())
    yield ".SH BACKENDS"
    for name in backends.NAMES[1:]:
        yield ".TP"
        yield f".B {name}"
        yield _escaped(backends.named(name).promise)
    yield from _section("FILES", _FILES)
    yield ".SH SEE ALSO"
    yield ".BR choom (1), cgroups (7), systemd\\-oomd.service (8)"


_FILES = """\
/proc/graceful_shutdown           the registry of a kernel that is patched, or has the module
/proc/graceful_shutdown_events    its events
/run/gs                           guarded runs and their events; of a user $XDG_RUNTIME_DIR/gs
/var/lib/gs-oom-exporter          what the exporter has counted; of a user in ~/.local/state
"""


def _section(title: str, text: str) -> Iterator[str]:
    """Text that is laid out already."""
    yield f".SH {_escaped(title)}"
    yield ".nf"
    yield from map(_escaped, text.rstrip("\n").split("\n"))
    yield ".fi"


def _escaped(line: str) -> str:
    line = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    print(page(), end="")
