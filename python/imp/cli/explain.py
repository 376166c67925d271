"""``imp explain``: what will run, and why."""

from __future__ import annotations

from .common import open_engine, print_json


def explain(
    *,
    model: str,
    batch: str,
    json_output: bool,
    config: str | None,
    settings: list[str] | None,
    device: str,
    memory_budget: str | None,
    threads: int,
    ctx_size: int | None,
    verbose: bool,
) -> None:
    try:
        sizes = [int(part) for part in batch.split(",")]
    except ValueError:
        raise ValueError(f"--batch {batch}: expected token counts like 1,8,512") from None
    if any(size < 1 for size in sizes):
        raise ValueError(f"--batch {batch}: token counts start at 1")
    with open_engine(
        model, config=config, settings=settings, device=device, memory_budget=memory_budget,
        threads=threads, ctx_size=ctx_size, verbose=verbose, announce=not json_output,
    ) as engine:  # fmt: skip
        explanation = engine.explain(sizes)
    if json_output:
        print_json(explanation)
    else:
        print(explanation)
