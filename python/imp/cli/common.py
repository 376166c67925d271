"""What the commands share: opening an engine, progress on stderr, formatting."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .. import _core, models
from ..config import RuntimeConfig
from ..engine import Engine
from ..errors import CudaError, InputOutputError
from ..sampling import SamplingParams


def make_config(config: str | None, settings: list[str] | None) -> RuntimeConfig:
    """The configuration of a command: the file search of the documentation, then ``--set``."""
    runtime = RuntimeConfig.load(config)
    for text in settings or []:
        runtime.core.set_assignment(text)
    return runtime


_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str, option: str) -> int:
    """``8GiB``, ``512M``, ``1.5 GiB`` or a plain number of bytes."""
    match = re.fullmatch(r"(\d{1,20}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    count = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else 0
    if not 0 < count < 1 << 63:
        raise ValueError(f"{option} {text}: expected a size like 8GiB, 512MiB or a number of bytes")
    return count


@contextmanager
def open_engine(
    model: str,
    *,
    config: str | None = None,
    settings: list[str] | None = None,
    device: str = "auto",
    threads: int = 0,
    memory_budget: str | None = None,
    ctx_size: int | None = None,
    least_context: int | None = None,
    verbose: bool = False,
    announce: bool = True,
) -> Iterator[Engine]:
    """An engine for the length of a command. Catalogue and ``hf:`` models are fetched when they are missing.

    ``ctx_size`` is the flag of that name; ``least_context`` is what a command needs where nobody set a length.
    """
    check_device(device)
    runtime = make_config(config, settings)
    set_context(runtime, ctx_size, least_context)
    budget = 0 if memory_budget is None else parse_bytes(memory_budget, "--memory-budget")
    path = models.resolve(model, download=True, progress=DownloadBar())
    with Waiting(f"loading {path.name}"):
        engine = Engine(
            path, config=runtime, device=device, num_threads=threads, memory_budget_bytes=budget, log=verbose
        )
    try:
        if announce and (verbose or device == "auto"):
            print(f"imp: {engine.device_line}", file=sys.stderr)
        yield engine
    finally:
        engine.close()


def set_context(runtime: RuntimeConfig, flag: int | None, least: int | None) -> None:
    """runtime.max_seq_len: of ``--ctx-size``, which must not contradict a ``--set``; else what somebody set; else `least`."""
    key = "runtime.max_seq_len"
    if flag is not None:
        runtime.set(key, flag, origin="flag", detail="--ctx-size")
    elif least is not None and not runtime.is_explicit(key):
        runtime.set(key, least, origin="api", detail="what is measured")


def check_device(device: str) -> None:
    """Refuses a device that is unknown or cannot be used, before anything is fetched or read for it."""
    index = _core.cuda_device_of(device)
    if index is not None and (reason := _core.why_no_cuda(index)):
        raise CudaError(f"--device {device}: {reason}; use --device cpu")


def read_text(path: str, option: str) -> str:
    """A text file named on the command line, or standard input for ``-``."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ValueError(f"{option} {path}: {error.strerror}") from None


def sampling_params(
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    stop: list[str] | None = None,
    **more: Any,
) -> SamplingParams:
    """Sampling of a command: what was given, else the defaults for chatting that the options' help names."""
    return SamplingParams(
        temperature=0.7 if temperature is None else temperature,
        top_k=40 if top_k is None else top_k,
        top_p=0.9 if top_p is None else top_p,
        min_p=0.0 if min_p is None else min_p,
        seed=seed,
        max_tokens=max_tokens,
        stop=stop or None,
        **more,
    )


class Waiting:
    """Says on a terminal what is going on, once it takes longer than a second; leaves nothing behind."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True) if sys.stderr.isatty() else None

    def _show(self) -> None:
        started = time.monotonic()
        shown = False
        while not self._done.wait(0.5 if shown else 1.0):
            shown = True
            print(f"\r{self._what} ... {time.monotonic() - started:.0f} s", end="", file=sys.stderr, flush=True)
        if shown:
            clear_line()

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()


def clear_line() -> None:
    """Wipes the progress line of a terminal."""
    print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class DownloadBar:
    """A one-line progress bar on stderr; silent where stderr is no terminal, but for a line per file."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._current = ""
        self._drawn = 0.0

    def __call__(self, what: str, done: int, total: int | None, /) -> None:
        if self._quiet:
            return
        finished = total is not None and done >= total
        if what != self._current:
            self._current = what
            self._drawn = 0.0
            if not self._terminal:
                size = f" ({total / 1e6:.0f} MB)" if total else ""
                print(f"imp: {what}{size}", file=sys.stderr)
        now = time.monotonic()
        if not self._terminal or (now - self._drawn < 0.1 and not finished):
            return
        self._drawn = now
        share = done / total if total else 0.0
        bar = "#" * int(30 * share)
        amount = f"{done / 1e6:7.1f}" + (f" of {total / 1e6:.1f} MB" if total else " MB")
        end = "\n" if finished else ""
        print(f"\r{what:<40.40} [{bar:<30}] {amount}", end=end, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def check_writable(path: str | None, option: str) -> None:
    """Says before long work that its result could not be written."""
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise InputOutputError(f"{option} {path}: is a directory")
    if not target.parent.is_dir():
        raise InputOutputError(f"{option} {path}: there is no directory {target.parent}")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise InputOutputError(f"{option} {path}: cannot be written")


def write_text(path: str, text: str, option: str) -> None:
    """Writes a whole file or nothing: an unwritable place leaves no half of it."""
    target = Path(path)
    is_device = target.exists() and not target.is_file()  # a device or a pipe takes what comes
    partial = target if is_device else target.with_name(target.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        if not is_device:
            partial.replace(target)
    except OSError as error:
        if not is_device:
            partial.unlink(missing_ok=True)
        raise InputOutputError(f"{option} {path}: {error.strerror}") from error


def format_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def format_table(header: list[str], rows: list[list[str]], right: set[int] | None = None) -> str:
    """Plain columns; those in ``right`` are right-aligned."""
    right = right or set()
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
