"""Exit codes of ``imp`` and ``imp-cli``, and the one place that turns exceptions into them."""

from __future__ import annotations

import errno
import sys

from ..errors import CudaError, ImpError, ModelError, UnsupportedError
from ..models import DownloadError

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
)


def exit_code_of(error: BaseException) -> int:
    """The documented exit code of an exception that reached the top of a command."""
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


def report_error(error: BaseException) -> int:
    """Prints one plain message for an expected error and gives its exit code. Bugs are raised on, with traceback."""
    code = exit_code_of(error)
    if code == INTERRUPTED:
        print("\ninterrupted", file=sys.stderr)
    elif code == BROKEN_PIPE:
        # The reader went away; Python would complain again when it flushes stdout at exit.
        sys.stderr.close()
    elif isinstance(error, (ImpError, OSError, ValueError, MemoryError)):
        print(f"imp: {describe(error)}", file=sys.stderr)
    else:
        raise error
    return code


def describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror
        return f"{error.filename}: {reason}"
    return str(error) or type(error).__name__
