"""The exceptions of imp. Each is an ImpError and also the built-in exception that fits best."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .outputs import RequestOutput


class ImpError(Exception):
    """Base of every error that imp raises on purpose.

    Where one request of a batch failed, `outputs` has the outputs of all of them.
    """

    outputs: list[RequestOutput] | None = None


class InvalidArgumentError(ImpError, ValueError):
    """A request, option or call that cannot be served as asked."""


class OutOfMemoryError(ImpError, MemoryError):
    """Weights, KV cache or workspace do not fit."""


class CudaError(ImpError, RuntimeError):
    """The device or its driver failed."""


class NotFoundError(ImpError, FileNotFoundError):
    """A file that was named does not exist."""


class ModelError(ImpError, ValueError):
    """A model file that is damaged, inconsistent or not a model."""


class UnsupportedError(ImpError, RuntimeError):
    """Well-formed, but this build, machine or model cannot do it."""


class InternalError(ImpError, RuntimeError):
    """A bug in imp."""


class CancelledError(ImpError, RuntimeError):
    """The work was cancelled before it was done."""


class InputOutputError(ImpError, OSError):
    """Reading or writing a file failed."""


class ChatTemplateError(InvalidArgumentError):
    """A chat template that is missing, broken, over its limits, or that refuses the conversation."""


class EngineClosedError(ImpError, RuntimeError):
    """A call on an engine after close()."""


# The values of imp_status in imp.h.
_BY_CODE: dict[int, type[ImpError]] = {
    -1: InvalidArgumentError,
    -2: OutOfMemoryError,
    -3: CudaError,
    -4: NotFoundError,
    -5: ModelError,
    -6: UnsupportedError,
    -7: InternalError,
    -8: CancelledError,
    -9: InputOutputError,
}


def from_code(code: int, message: str) -> ImpError:
    """The exception for a status code; the native module raises its errors through this."""
    return _BY_CODE.get(code, InternalError)(message)
