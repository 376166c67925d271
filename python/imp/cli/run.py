"""``imp run``: one prompt, the answer streamed to stdout."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from ..engine import Engine
from .common import format_bytes, open_engine, print_json, sampling_params, write_text


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
    threads: int,
    ctx_size: int | None,
    verbose: bool,
    **sampling: Any,
) -> None:
    text = read_prompt(prompt)
    opening = time.perf_counter()
    with open_engine(
        model, config=config, settings=settings, device=device, threads=threads, ctx_size=ctx_size, verbose=verbose,
        announce=not json_output,
    ) as engine:  # fmt: skip
        loaded = time.perf_counter()
        params = sampling_params(engine, stop=stop, **sampling)
        ids = engine.tokenize(text) if raw or not engine.chat_template else engine.chat_ids(_messages(system, text))
        if raw and system:
            raise ValueError("--system needs a chat template, and --raw goes without one")

        pieces: list[str] = []
        finish: str | None = None
        started = time.perf_counter()
        first: float | None = None
        num_tokens = 0
        for delta in engine.stream(ids, params):
            if first is None:
                first = time.perf_counter()
            pieces.append(delta.text)
            num_tokens += len(delta.token_ids)
            finish = delta.finish_reason or finish
            if not json_output:
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        ended = time.perf_counter()
        figures = _figures(engine, len(ids), num_tokens, loaded - opening, started, first or ended, ended)
        if json_output:
            print_json({"text": "".join(pieces), "finish_reason": finish, **figures})
        else:
            sys.stdout.write("\n")
            sys.stdout.flush()
        if stats:
            print_stats(figures)
        if report:
            write_text(report, json.dumps(engine.report(), indent=2) + "\n")


def read_prompt(prompt: str | None) -> str:
    """The argument, or standard input where it is no terminal."""
    if prompt is None or prompt == "-":
        if sys.stdin.isatty():
            raise ValueError("no prompt: give one as an argument, or pipe text in")
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise ValueError("the prompt is empty")
    return prompt


def _messages(system: str | None, text: str) -> list[dict[str, str]]:
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": text}]


def _figures(
    engine: Engine, prompt_tokens: int, generated: int, load_s: float, started: float, first: float, ended: float
) -> dict[str, Any]:
    """Speeds as users read them: the prompt up to its first token, the rest of the tokens after it."""
    prompt_s = first - started
    decode_s = ended - first
    memory = engine.report().get("mem", {})
    return {
        "model": engine.model_description,
        "device": engine.device_name,
        "memory_bytes": {tag: count for tag, count in memory.items() if isinstance(count, int)},
        "load_s": load_s,
        "prompt_tokens": prompt_tokens,
        "prompt_tokens_per_s": prompt_tokens / prompt_s if prompt_s > 0 else None,
        "generated_tokens": generated,
        "generated_tokens_per_s": (generated - 1) / decode_s if generated > 1 and decode_s > 0 else None,
        "time_to_first_token_s": prompt_s,
    }


def print_stats(figures: dict[str, Any]) -> None:
    """Model, backend, memory and speed, a line each, on stderr."""

    def speed(value: float | None) -> str:
        return f"{value:.1f} tokens/s" if value else "-"

    memory = ", ".join(f"{tag} {format_bytes(count)}" for tag, count in figures["memory_bytes"].items() if count)
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
