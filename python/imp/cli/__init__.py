"""The ``imp`` command. Each verb is a module; they are imported when used, so that ``imp --help`` is quick."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``imp`` script; exits with the codes of :mod:`imp.cli.exit_codes`."""
    try:
        from .app import run_app  # noqa: PLC0415 - typer is imported only when a command runs

        code = run_app(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # while modules were loading
        code = 130
    sys.exit(code)


def main_classic(arguments: list[str] | None = None) -> None:
    """Entry point of the ``imp-cli`` script; the same exit codes."""
    try:
        from .classic import main as run_classic  # noqa: PLC0415 - as above

        run_classic(arguments)
    except KeyboardInterrupt:  # while modules were loading
        sys.exit(130)
