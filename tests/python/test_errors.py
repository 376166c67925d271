"""Every status code is an exception of its own that is also the fitting built-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import imp
from imp import errors
from imp._steps import StepLoop


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        (-1, imp.InvalidArgumentError, ValueError),
        (-2, imp.OutOfMemoryError, MemoryError),
        (-3, imp.CudaError, RuntimeError),
        (-4, imp.NotFoundError, FileNotFoundError),
        (-5, imp.ModelError, ValueError),
        (-6, imp.UnsupportedError, RuntimeError),
        (-7, imp.InternalError, RuntimeError),
        (-8, imp.CancelledError, RuntimeError),
        (-9, imp.InputOutputError, OSError),
    ],
)
def test_codes(code: int, kind: type[imp.ImpError], builtin: type[Exception]) -> None:
    error = errors.from_code(code, "what happened")
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert isinstance(error, imp.ImpError)
    assert str(error) == "what happened"


def test_unknown_code_is_a_bug() -> None:
    assert type(errors.from_code(-99, "x")) is imp.InternalError


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        imp.Engine(tmp_path / "none.gguf")
    with pytest.raises(imp.NotFoundError, match=r"none\.gguf"):
        imp.Tokenizer(tmp_path / "none.gguf")


@pytest.mark.parametrize("content", [b"", b"GG", b"not a model at all", b"GGUF\x03\x00\x00\x00"])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    for call in (imp.Engine, imp.Tokenizer):
        with pytest.raises(imp.ModelError, match=r"bad\.gguf") as caught:
            call(path)
        assert isinstance(caught.value, ValueError)


def test_truncated_file(tmp_path: Path, tiny_llama: str) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(Path(tiny_llama).read_bytes()[:-1000])
    with pytest.raises(imp.ModelError, match="short"):
        imp.Engine(path, device="cpu")


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(imp.ImpError, match=tmp_path.name):
        imp.Engine(tmp_path, device="cpu")


def test_unknown_device(tiny_llama: str) -> None:
    with pytest.raises(imp.InvalidArgumentError, match="tpu"):
        imp.Engine(tiny_llama, device="tpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_threads": 10**11}, "num_threads: expected an integer from"),
        ({"num_threads": -1}, "number of threads is -1"),
        ({"memory_budget_bytes": -1}, "memory_budget_bytes: expected an integer from 0"),
        ({"memory_budget_bytes": 2**70}, "memory_budget_bytes: expected an integer from 0"),
        ({"max_model_len": 2**40}, "expected an integer >= 0, at most 2147483647"),
        ({"device": None}, 'device: expected "auto", "cpu", "cuda" or "cuda:N", found None'),
        ({"device": "cuda:one"}, 'device "cuda:one" is unknown'),
    ],
)
def test_arguments_that_no_engine_can_have(arguments: dict[str, Any], message: str, tiny_llama: str) -> None:
    with pytest.raises(imp.InvalidArgumentError, match=message):
        imp.Engine(tiny_llama, log=False, **arguments)


def test_numbers_that_are_too_large_for_the_native_part(engine: imp.Engine) -> None:
    for call in (
        lambda: engine.generate([[1, 2**31]]),
        lambda: next(engine.stream([1, -(2**40)])),
        lambda: engine.logits([1, 10**12]),
        lambda: engine.perplexity([1, 10**12]),
        lambda: engine.detokenize([1, 10**30]),
    ):
        with pytest.raises(imp.InvalidArgumentError, match=r"^token id -?\d+ at position 1 is in no vocabulary$"):
            call()
    with pytest.raises(imp.InvalidArgumentError, match="context: expected an integer"):
        engine.perplexity([1] * 100, context=10**12)
    with pytest.raises(imp.InvalidArgumentError, match="batch_sizes: expected an integer"):
        engine.explain([2**31])
    with pytest.raises(TypeError):  # not the token 1
        engine.stream([1.5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"num_threads: expected an integer, found 1\.5"):
        imp.Engine(engine.report()["model"]["path"], num_threads=1.5)  # type: ignore[arg-type]


def test_not_enough_memory(tiny_llama: str) -> None:
    with pytest.raises(MemoryError, match="budget") as caught:
        imp.Engine(tiny_llama, device="cpu", memory_budget_bytes=1000)
    assert isinstance(caught.value, imp.OutOfMemoryError)


def test_closed_engine(tiny_llama: str) -> None:
    engine = imp.Engine(tiny_llama, device="cpu")
    engine.close()
    engine.close()
    assert repr(engine) == "Engine(closed)"
    for call in (lambda: engine.generate("a"), engine.report, lambda: engine.tokenize("a"), lambda: engine.vocab_size):
        with pytest.raises(imp.EngineClosedError, match="closed"):
            call()


def test_log_levels() -> None:
    imp.set_log_level("warn")
    with pytest.raises(ValueError, match="debug, info, warn, error"):
        imp.set_log_level("loud")


def test_import_is_light_and_clean() -> None:
    program = "import sys, imp; print([m for m in ('jinja2', 'numpy', 'rich', 'huggingface_hub', 'typer') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "[]\n"
    assert result.stderr == ""


def test_exceptions_leave_no_leaks() -> None:
    """nanobind reports objects that outlive the interpreter; errors, streams and engines must not."""
    program = f"""
import imp
engine = imp.Engine({str(Path(__file__).parent.parent / "data" / "models" / "tiny-llama.gguf")!r}, device="cpu")
stream = engine.stream("hello", imp.SamplingParams(max_tokens=20))
next(stream)
try:
    engine.generate([99999])
except imp.InvalidArgumentError:
    pass
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stderr == ""


class FailedCore:
    """A native engine whose device failed: every step gives the same error."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []

    def submit(self, prompt: list[int], params: object) -> int:
        return 7

    def has_work(self) -> bool:
        return True

    def cancel(self, request: int) -> None:
        self.cancelled.append(request)

    def step_into(self, filed: object) -> None:
        raise errors.CudaError("gemv: the device is lost")


def test_a_failed_device_raises_for_who_waits_and_not_for_who_leaves() -> None:
    core = FailedCore()
    loop = StepLoop(core)  # type: ignore[arg-type]
    request = loop.submit([1], object())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(errors.CudaError, match="the device is lost"):
            loop.next_events([request])
    loop.abandon([request])
    assert core.cancelled == [request]
    loop.close()
