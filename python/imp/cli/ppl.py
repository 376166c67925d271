"""``imp ppl``: perplexity in llama-perplexity's windows."""

from __future__ import annotations

import sys
import time

from .common import open_engine, print_json, read_text


def ppl(
    *,
    model: str,
    file: str,
    ctx_size: int,
    json_output: bool,
    config: str | None,
    settings: list[str] | None,
    device: str,
    memory_budget: str | None,
    threads: int,
    verbose: bool,
) -> None:
    text = read_text(file, "--file")
    with open_engine(
        model, config=config, settings=settings, device=device, memory_budget=memory_budget,
        threads=threads, verbose=verbose, announce=not json_output,
    ) as engine:  # fmt: skip
        started = time.perf_counter()

        def progress(done: int, total: int, value: float) -> None:
            if sys.stderr.isatty():
                end = "\n" if done == total else ""
                print(f"\r[{done}/{total}] perplexity {value:.4f}", end=end, file=sys.stderr, flush=True)

        result = engine.perplexity(text, context=ctx_size, progress=progress)
        seconds = time.perf_counter() - started
    if json_output:
        print_json(
            {
                "perplexity": result.value,
                "stderr": result.stderr,
                "context": ctx_size,
                "windows": result.windows,
                "scored_tokens": result.scored_tokens,
                "seconds": seconds,
            }
        )
    else:
        print(f"perplexity {result.value:.4f} +/- {result.stderr:.4f}  ({result.windows} windows of {ctx_size} tokens)")
