"""imp: an LLM inference engine for one GPU, and for none.

>>> import imp
>>> with imp.Engine("model.gguf") as engine:
...     print(engine.chat([{"role": "user", "content": "Hello"}])[0].outputs[0].text)
"""

from . import config, errors
from ._core import set_log_level
from ._version import __version__
from .config import RuntimeConfig
from .engine import Engine, Stream
from .errors import (
    CancelledError,
    ChatTemplateError,
    CudaError,
    EngineClosedError,
    ImpError,
    InputOutputError,
    InternalError,
    InvalidArgumentError,
    ModelError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from .outputs import CompletionOutput, Delta, Logprob, PerplexityResult, RequestMetrics, RequestOutput
from .sampling import SamplingParams
from .tokenizer import Tokenizer

__all__ = [
    "CancelledError",
    "ChatTemplateError",
    "CompletionOutput",
    "CudaError",
    "Delta",
    "Engine",
    "EngineClosedError",
    "ImpError",
    "InputOutputError",
    "InternalError",
    "InvalidArgumentError",
    "Logprob",
    "ModelError",
    "NotFoundError",
    "OutOfMemoryError",
    "PerplexityResult",
    "RequestMetrics",
    "RequestOutput",
    "RuntimeConfig",
    "SamplingParams",
    "Stream",
    "Tokenizer",
    "UnsupportedError",
    "__version__",
    "config",
    "errors",
    "set_log_level",
]
