"""Exit codes of ``imp`` and ``imp-cli``, and the one place that turns exceptions into them."""

from __future__ import annotations

import os
import sys

from ..errors import CudaError, ImpError, ModelError, UnsupportedError

OK = 0
FAILURE = 1  # something went wrong while running
USAGE = 2  # command line or configuration
MODEL = 3  # missing, damaged or unsupported model
DEVICE = 4  # no usable device
MEMORY = 5
NETWORK = 6
INTERRUPTED = 130
BROKEN_PIPE = 141

TABLE = (
    (OK, "done"),
    (FAILURE, "something failed while running"),
    (USAGE, "wrong command line or configuration"),
    (MODEL, "model missing, damaged or unsupported"),
    (DEVICE, "device unusable"),
    (MEMORY, "not enough memory"),
    (NETWORK, "network or download"),
    (INTERRUPTED, "interrupted (Ctrl-C)"),
    (BROKEN_PIPE, "the reader of the output went away"),
)

# What a user can cause. Anything else is a bug and keeps its traceback.
EXPECTED = (ImpError, OSError, ValueError, MemoryError, KeyboardInterrupt)


def exit_code_of(error: BaseException) -> int:
    """The documented exit code of an exception that reached the top of a command."""
    from ..models import DownloadError  # noqa: PLC0415 - slow to import, needed for errors alone

    match error:
        case KeyboardInterrupt():
            return INTERRUPTED
        case BrokenPipeError():
            return BROKEN_PIPE
        case DownloadError():
            return NETWORK
        case ModelError() | UnsupportedError() | FileNotFoundError():
            return MODEL
        case CudaError():
            return DEVICE
        case MemoryError():
            return MEMORY
        case ValueError():
            return USAGE
        case _:
            return FAILURE


def report_error(error: BaseException, program: str = "imp") -> int:
    """Prints one plain message for an expected error and gives its exit code. Bugs are raised on, with traceback."""
    code = exit_code_of(error)
    if code == INTERRUPTED:
        print(f"\n{program}: interrupted", file=sys.stderr)
    elif code == BROKEN_PIPE:
        _discard_output()
    elif isinstance(error, EXPECTED):
        print(f"{program}: {describe(error)}", file=sys.stderr)
    else:
        raise error
    return code


def flush_output(code: int, program: str = "imp") -> int:
    """Writes out what stdout still holds. A full disk or a closed pipe counts, unless something failed before."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        flushed = report_error(error, program)
        _discard_output()
        return code or flushed
    return code


def _discard_output() -> None:
    """Points stdout at nothing, so that Python's own flush at exit does not complain a second time."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # stdout is no file
        return


def describe(error: BaseException) -> str:
    """One line, or the lines that imp's own message has."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError) and not str(error):
        return "not enough memory"
    return str(error) or type(error).__name__
