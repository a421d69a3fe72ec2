"""Invoke as `./dev` starts it: the same program, but a wrong command line exits with 2."""

from __future__ import annotations

import os

from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from provisioning import config
from provisioning.errors import UsageError


class Tasks(Program):
    """Invoke's program with our exit code for usage errors (its own is 1)."""

    def parse_core(self, argv: list[str] | None) -> None:
        """Options before the first task."""
        try:
            super().parse_core(argv)
        except ParseError as error:
            raise _usage(error) from None

    def parse_tasks(self) -> None:
        """The tasks and their options."""
        try:
            super().parse_tasks()
        except (ParseError, ValueError) as error:  # ValueError: no number where one is due
            raise _usage(error) from None

    def update_config(self, merge: bool = True) -> None:
        """A password that was asked for is where the other one is, too."""
        super().update_config(merge)
        if said := self.config.sudo.password:
            os.environ[config.SUDO_PASSWORD] = said


def _usage(error: Exception) -> Exit:
    line = UsageError(str(error).rstrip("!"), hint="./dev --list, and ./dev --help TASK")
    return Exit(f"error: {line}", code=UsageError.exit_code)


if __name__ == "__main__":
    Tasks(name="dev", binary="./dev").run()
