"""``imp bench``: prompt processing and generation speed, in llama-bench's tests, columns and JSON fields.

A test is ``pp N`` (one prompt of N tokens), ``tg N`` (N single tokens), or both after another, at a depth of tokens that are
already in the context. Each is warmed up once, then timed ``-r`` times; tokenizing and sampling are not timed. Beside
llama-bench's columns stand the weight bytes read a second and their share of the device's memory bandwidth measured in the
same run, for generation (a prompt reads each weight once for all its tokens, so its limit is arithmetic).
"""

from __future__ import annotations

import csv
import datetime
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .. import _core
from .._version import __commit__, __version__
from ..engine import Engine
from .common import clear_line, open_engine

_FORMATS = ("md", "csv", "json", "jsonl")


@dataclass(frozen=True)
class Test:
    """One row: ``n_prompt`` tokens at once, then ``n_gen`` one by one, at ``n_depth``."""

    n_prompt: int
    n_gen: int
    n_depth: int

    @property
    def name(self) -> str:
        parts = ([f"pp{self.n_prompt}"] if self.n_prompt else []) + ([f"tg{self.n_gen}"] if self.n_gen else [])
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")


def parse_sizes(text: str, option: str) -> list[int]:
    """``512``, ``128,256``, ``128-512`` (every number), ``128-512+128`` or ``128-1024*2``."""
    sizes: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?", part.strip())
        if not match:
            raise ValueError(f"{option} {text}: expected a list of numbers or ranges like 128-1024*2, found {part!r}")
        first = int(match.group(1))
        last = int(match.group(2) or first)
        step = int(match.group(4) or 1)
        grows = step > 1 and first > 0 if match.group(3) == "*" else step > 0
        if last < first or not grows:
            raise ValueError(f"{option} {text}: the range {part!r} does not go up")
        while first <= last:
            sizes.append(first)
            first = first * step if match.group(3) == "*" else first + step
            if len(sizes) > 1000:
                raise ValueError(f"{option} {text}: more than 1000 values")
    return sizes


def parse_pairs(texts: list[str] | None) -> list[tuple[int, int]]:
    pairs = []
    for text in texts or []:
        match = re.fullmatch(r"(\d+),(\d+)", text)
        if not match:
            raise ValueError(f"-pg {text}: expected PP,TG")
        pairs.append((int(match.group(1)), int(match.group(2))))
    return pairs


def plan(n_prompt: str, n_gen: str, pg: list[str] | None, depth: str) -> list[Test]:
    """The tests in llama-bench's order: for each depth all pp, all tg, then the pairs. A size of 0 leaves a kind out."""
    tests = []
    for d in parse_sizes(depth, "-d"):
        tests += [Test(p, 0, d) for p in parse_sizes(n_prompt, "-p") if p]
        tests += [Test(0, n, d) for n in parse_sizes(n_gen, "-n") if n]
        tests += [Test(p, n, d) for p, n in parse_pairs(pg) if p or n]
    if not tests:
        raise ValueError("nothing to measure: every prompt and generation length is 0")
    return tests


def measure(engine: Engine, test: Test, repetitions: int) -> list[int]:
    """Nanoseconds of each repetition, after one that is not counted."""
    core = engine.core
    # Fixed ids, so that every run and engine does the same work; the seed keeps runs of one binary comparable.
    ids = random.Random(1)
    vocab = engine.vocab_size

    def tokens(count: int) -> list[int]:
        return [ids.randrange(vocab) for _ in range(count)]

    samples = []
    for repetition in range(repetitions + 1):
        if on_terminal := sys.stderr.isatty():
            print(f"\r{test.name}: {repetition} of {repetitions} ...", end="", file=sys.stderr, flush=True)
        core.reset()
        if test.n_depth:
            core.bench_prefill(tokens(test.n_depth))
        prompt, generated = tokens(test.n_prompt), tokens(test.n_gen)
        started = time.perf_counter_ns()
        if prompt:
            core.bench_prefill(prompt)
        for token in generated:
            core.bench_decode(token)
        elapsed = time.perf_counter_ns() - started
        if repetition > 0:
            samples.append(elapsed)
    if on_terminal:
        clear_line()
    core.reset()
    return samples


def bench(
    *,
    model: str,
    n_prompt: str,
    n_gen: str,
    pg: list[str] | None,
    depth: str,
    threads: str,
    repetitions: int,
    output: str,
    config: str | None,
    settings: list[str] | None,
    device: str,
    memory_budget: str | None,
    verbose: bool,
) -> None:
    if output not in _FORMATS:
        raise ValueError(f"-o {output}: one of {', '.join(_FORMATS)}")
    tests = plan(n_prompt, n_gen, pg, depth)
    longest = max(test.n_depth + test.n_prompt + test.n_gen for test in tests)
    write = _writer(output)
    for num_threads in parse_sizes(threads, "-t"):
        with open_engine(
            model, config=config, settings=settings, device=device, memory_budget=memory_budget,
            threads=num_threads, least_context=longest, verbose=verbose, announce=False,
        ) as engine:  # fmt: skip
            peak = _read_bandwidth(engine, device)
            for row in _rows(engine, model, tests, repetitions, peak):
                write(row)
    write(None)


def _read_bandwidth(engine: Engine, device: str) -> float:
    """Bytes a second that the device reads from its memory, by reading and nothing else."""
    if engine.device == "cpu":
        return _core.measure_read_bandwidth(engine.num_threads)
    return _core.measure_gpu_read_bandwidth(_core.cuda_device_of(device) or 0)


def _rows(engine: Engine, model: str, tests: list[Test], repetitions: int, peak: float) -> Iterator[dict[str, Any]]:
    for test in tests:
        started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        samples = measure(engine, test, repetitions)
        yield make_row(engine, model, test, samples, started, peak)


def make_row(
    engine: Engine, model: str, test: Test, samples: list[int], started: str, peak: float | None
) -> dict[str, Any]:
    """llama-bench's JSON fields, as far as they mean something here, and ours behind them. `peak`: bytes read a second."""
    count = test.n_prompt + test.n_gen
    speeds = [count / (sample / 1e9) for sample in samples]
    only_generation = test.n_gen > 0 and test.n_prompt == 0
    mean = statistics.fmean(speeds)
    read = engine.core.bytes_per_token * mean / 1e9 if only_generation else None
    return {
        "build_commit": __commit__,
        "build_number": _build_number(),
        "cpu_info": _core.cpu_name(),
        "gpu_info": "" if engine.device == "cpu" else engine.device_name,
        "backends": engine.device.split(":")[0].upper(),
        "model_filename": model,
        "model_type": engine.model_description,
        "model_size": engine.core.model_bytes,
        "model_n_params": engine.core.num_parameters,
        "n_batch": engine.max_batch_tokens,
        "n_ubatch": engine.max_batch_tokens,
        "n_threads": engine.num_threads,
        "type_k": "f16",
        "type_v": "f16",
        "n_gpu_layers": 0 if engine.device == "cpu" else -1,
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "n_depth": test.n_depth,
        "test_time": started,
        "avg_ns": round(statistics.fmean(samples)),
        "stddev_ns": round(_deviation(samples)),
        "avg_ts": mean,
        "stddev_ts": _deviation(speeds),
        "samples_ns": samples,
        "samples_ts": speeds,
        "read_gb_s": read,
        "peak_read_gb_s": peak / 1e9 if peak else None,
        "read_share": read * 1e9 / peak if read is not None and peak else None,
    }


def _build_number() -> int:
    """The version as the one number that llama-bench's readers expect: 0.1.2 is 102."""
    major, minor, patch = (int(part) for part in __version__.split("."))
    return 10000 * major + 100 * minor + patch


def _deviation(values: list[float] | list[int]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _writer(output: str) -> Callable[[dict[str, Any] | None], None]:
    """A function that prints each row as it comes, and the end (None)."""
    match output:
        case "md":
            return _Markdown()
        case "csv":
            return _Csv()
        case "json":
            return _JsonArray()
        case _:
            return _JsonLines()


class _JsonLines:
    def __call__(self, row: dict[str, Any] | None) -> None:
        if row is not None:
            print(json.dumps(row), flush=True)


class _JsonArray:
    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def __call__(self, row: dict[str, Any] | None) -> None:
        if row is None:
            print(json.dumps(self._rows, indent=2))
        else:
            self._rows.append(row)


class _Csv:
    def __init__(self) -> None:
        self._writer: csv.DictWriter[str] | None = None

    def __call__(self, row: dict[str, Any] | None) -> None:
        if row is None:
            return
        flat = {name: value for name, value in row.items() if not name.startswith("samples_")}
        if self._writer is None:
            self._writer = csv.DictWriter(sys.stdout, list(flat), quoting=csv.QUOTE_ALL, lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow({name: "" if value is None else value for name, value in flat.items()})
        sys.stdout.flush()


class _Markdown:
    """llama-bench's table; the two columns it lacks stand last."""

    _COLUMNS = (
        ("model", -30), ("size", 10), ("params", 10), ("backend", -10), ("threads", 7), ("test", 15), ("t/s", 20),
        ("GB/s", 8), ("of peak", 8),
    )  # fmt: skip

    def __init__(self) -> None:
        self._last: dict[str, Any] | None = None

    def __call__(self, row: dict[str, Any] | None) -> None:
        if row is None:
            if self._last:
                print(f"\nbuild: {self._last['build_commit']} ({self._last['build_number']})")
                if peak := self._last["peak_read_gb_s"]:
                    print(f"peak: {peak:.1f} GB/s read from memory, measured in this run")
            return
        if self._last is None:
            self._line([name for name, _ in self._COLUMNS])
            rules = ["-" * width + ":" if width > 0 else "-" * -width for _, width in self._COLUMNS]
            print("| " + " | ".join(rule[1:] if rule.endswith(":") else rule for rule in rules) + " |")
        self._last = row
        share = row["read_share"]
        self._line(
            [
                row["model_type"],
                _size(row["model_size"]),
                _params(row["model_n_params"]),
                row["backends"],
                str(row["n_threads"]),
                Test(row["n_prompt"], row["n_gen"], row["n_depth"]).name,
                f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
                "-" if row["read_gb_s"] is None else f"{row['read_gb_s']:.1f}",
                "-" if share is None else f"{100 * share:.0f} %",
            ]
        )

    def _line(self, cells: list[str]) -> None:
        padded = [
            cell.ljust(-width) if width < 0 else cell.rjust(width)
            for cell, (_, width) in zip(cells, self._COLUMNS, strict=True)
        ]
        print("| " + " | ".join(padded) + " |", flush=True)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"


def _params(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
