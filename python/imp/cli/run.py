"""``imp run``: one prompt, the answer streamed to stdout."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from ..engine import Engine
from ..errors import InternalError
from ..outputs import RequestOutput
from .common import check_writable, format_bytes, open_engine, print_json, sampling_params, write_text


def run(
    *,
    model: str,
    prompt: str | None,
    raw: bool,
    system: str | None,
    stats: bool,
    stop: list[str] | None,
    report: str | None,
    json_output: bool,
    config: str | None,
    settings: list[str] | None,
    device: str,
    memory_budget: str | None,
    threads: int,
    ctx_size: int | None,
    verbose: bool,
    **sampling: Any,
) -> None:
    check_writable(report, "--report")
    if raw and system:
        raise ValueError("--system needs a chat template, and --raw goes without one")
    params = sampling_params(stop=stop, **sampling)
    text = read_prompt(prompt)
    opening = time.perf_counter()
    with open_engine(
        model, config=config, settings=settings, device=device, memory_budget=memory_budget,
        threads=threads, ctx_size=ctx_size, verbose=verbose, announce=not json_output,
    ) as engine:  # fmt: skip
        loaded = time.perf_counter()
        stream = engine.stream(_prompt_ids(engine, text, system, raw=raw), params)
        for delta in stream:
            if not json_output:
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        if not json_output:
            sys.stdout.write("\n")
            sys.stdout.flush()
        figures = _figures(engine, stream.output, loaded - opening)
        if json_output:
            answer = stream.output.outputs[0]
            print_json({"text": answer.text, "finish_reason": answer.finish_reason, **figures})
        if stats:
            print_stats(figures)
        if report:
            write_text(report, json.dumps(engine.report(), indent=2) + "\n", "--report")


def _prompt_ids(engine: Engine, text: str, system: str | None, *, raw: bool) -> list[int]:
    if raw or not engine.chat_template:
        if system:
            raise ValueError("--system needs a chat template, and this model has none")
        return engine.tokenize(text)
    opening = [{"role": "system", "content": system}] if system else []
    return engine.chat_ids([*opening, {"role": "user", "content": text}])


def read_prompt(prompt: str | None) -> str:
    """The argument, or standard input where it is no terminal."""
    if prompt is None or prompt == "-":
        if sys.stdin.isatty():
            raise ValueError("no prompt: give one as an argument, or pipe text in")
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise ValueError("the prompt is empty")
    return prompt


def _figures(engine: Engine, output: RequestOutput, load_s: float) -> dict[str, Any]:
    """Speeds as users read them: the prompt up to its first token, the rest of the tokens after it."""
    metrics = output.metrics
    if metrics is None:
        raise InternalError("a finished request without metrics")
    memory = engine.report().get("mem", {})
    return {
        "model": engine.model_description,
        "device": f"{engine.device}: {engine.device_name}",
        "memory_bytes": {tag: count for tag, count in memory.items() if isinstance(count, int)},
        "load_s": load_s,
        "prompt_tokens": metrics.prompt_tokens,
        "prompt_tokens_per_s": metrics.prompt_tokens_per_s or None,
        "generated_tokens": metrics.generated_tokens,
        "generated_tokens_per_s": metrics.generated_tokens_per_s or None,
        "time_to_first_token_s": metrics.queued_s + metrics.prefill_s,
    }


def print_stats(figures: dict[str, Any]) -> None:
    """Model, backend, memory and speed, a line each, on stderr."""

    def speed(value: float | None) -> str:
        return f"{value:.1f} tokens/s" if value else "-"

    memory = ", ".join(
        f"{tag} {format_bytes(count)}"
        for tag, count in figures["memory_bytes"].items()
        if count and tag not in ("other", "budget")
    )
    rows = [
        ("model", figures["model"]),
        ("backend", figures["device"]),
        ("memory", memory),
        ("load", f"{figures['load_s']:.2f} s"),
        ("prompt", f"{figures['prompt_tokens']} tokens, {speed(figures['prompt_tokens_per_s'])}"),
        ("generation", f"{figures['generated_tokens']} tokens, {speed(figures['generated_tokens_per_s'])}"),
    ]
    print(file=sys.stderr)
    for name, value in rows:
        print(f"  {name:<11} {value}", file=sys.stderr)
