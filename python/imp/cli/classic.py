"""``imp-cli``: one flat set of flags for a prompt, a conversation, a benchmark or a perplexity.

Flags that have a twin in the configuration set that key with origin ``flag``, so that a key which does not act yet refuses
them by name. An unknown flag prints the usage and exits with 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from typing import Any

from .. import _core, models
from .._version import __commit__, __version__
from ..config import RuntimeConfig
from ..engine import Engine
from ..sampling import SamplingParams
from . import exit_codes
from .common import (
    DownloadBar,
    Waiting,
    check_device,
    check_writable,
    parse_bytes,
    print_json,
    read_text,
    set_context,
    write_text,
)
from .common import make_config as make_base_config

# Flag -> (key, value); a value of None means the flag's own argument. A flag is listed if it acts, if its key refuses it by
# name, or if it asks for what happens anyway (--kv-fp16).
_CONFIG_FLAGS: dict[str, tuple[str, str | None]] = {
    "--max-seq-len": ("runtime.max_seq_len", None),
    "--mmproj": ("paths.mmproj", None),
    "--kv-fp16": ("kv_cache.dtype", "fp16"),
    "--kv-fp8": ("kv_cache.dtype", "fp8"),
    "--kv-int8": ("kv_cache.dtype", "int8"),
    "--kv-int4": ("kv_cache.dtype", "int4"),
    "--kv-nvfp4": ("kv_cache.dtype", "nvfp4"),
    "--prefill-fp8": ("attention.fp8_prefill", "always"),
    "--no-fp8-prefill": ("attention.fp8_prefill", "never"),
    "--no-cuda-graphs": ("runtime.cuda_graphs", "never"),
}

_TEMPLATES = ("auto", "none", "chatml", "llama2", "llama3", "gemma")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(exit_codes.USAGE)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="imp-cli", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"imp-cli {__version__} ({__commit__})")

    io = parser.add_argument_group("model, input and output")
    io.add_argument("--model", "-m", required=True, help="GGUF file, catalogue name or hf:org/repo[:quant]")
    io.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    io.add_argument("--threads", "-t", type=_count, default=0, help="CPU threads; 0: one a physical core")
    io.add_argument("--memory-budget", metavar="SIZE", help="most memory to take: 8GiB; default: 3/4 of what is free")
    io.add_argument("--config", metavar="FILE")
    io.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="override one key; repeatable")
    io.add_argument("--json", action="store_true", help="machine-readable output on stdout")
    io.add_argument("--report", metavar="FILE", help="write the engine's report as JSON")
    io.add_argument("--prompt", "-p")
    io.add_argument("--prompt-file", metavar="FILE")
    io.add_argument("--interactive", "-i", action="store_true")
    io.add_argument("--no-history", action="store_true", help="--interactive keeps no file of the lines typed")
    io.add_argument("--chat-template", choices=_TEMPLATES, default="auto")
    io.add_argument("--stop", action="append", default=[], help="stop string; up to 4")

    limits = parser.add_argument_group("limits and switches that are configuration keys")
    for flag, (key, value) in _CONFIG_FLAGS.items():
        if value is None:
            limits.add_argument(flag, metavar="VALUE", dest=flag, help=key)
        else:
            limits.add_argument(flag, action="store_true", dest=flag, help=f"{key} = {value}")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--max-tokens", "-n", type=_positive, default=256)
    for flag, kind, default in (
        ("--temperature", float, 0.7), ("--top-k", int, 40), ("--top-p", float, 0.9), ("--min-p", float, 0.0),
        ("--typical-p", float, 1.0), ("--repeat-penalty", float, 1.0), ("--repeat-last-n", int, 64),
        ("--frequency-penalty", float, 0.0), ("--presence-penalty", float, 0.0), ("--seed", int, -1),
        ("--dry-multiplier", float, 0.0), ("--dry-base", float, 1.75), ("--dry-allowed-length", int, 2),
        ("--dry-penalty-last-n", int, -1), ("--mirostat", int, 0), ("--mirostat-tau", float, 5.0),
        ("--mirostat-eta", float, 0.1),
    ):  # fmt: skip
        sampling.add_argument(
            flag, type=kind, default=default, metavar="N" if kind is int else "X", help=f"default {default}"
        )

    tools = parser.add_argument_group("tools")
    tools.add_argument("--bench", action="store_true", help="time prompt processing and generation")
    tools.add_argument("--bench-pp", type=_positive, default=512, help="prompt tokens (default 512)")
    tools.add_argument("--bench-reps", type=_positive, default=3, help="repetitions (default 3)")
    tools.add_argument("--perplexity", metavar="FILE", help="score a text in windows of 512 tokens")
    return parser


def _positive(text: str) -> int:
    return _whole_number(text, 1)


def _count(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, lowest: int) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= lowest:
            return value
    raise argparse.ArgumentTypeError(f"expected a whole number of at least {lowest}, found {text!r}")


def make_config(arguments: argparse.Namespace) -> RuntimeConfig:
    """File and ``--set`` first, then the flags; a flag that contradicts a ``--set`` of the same key is an error."""
    config = make_base_config(arguments.config, arguments.set)
    for flag, (key, value) in _CONFIG_FLAGS.items():
        given = getattr(arguments, flag)
        if given in (None, False):
            continue
        config.set(key, value if value is not None else given, origin="flag", detail=flag)
    return config


def make_params(arguments: argparse.Namespace) -> SamplingParams:
    if len(arguments.stop) > 4:
        raise ValueError("--stop can be given 4 times at most")
    return SamplingParams(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        typical_p=arguments.typical_p,
        repetition_penalty=arguments.repeat_penalty,
        penalty_last_n=arguments.repeat_last_n,
        frequency_penalty=arguments.frequency_penalty,
        presence_penalty=arguments.presence_penalty,
        dry_multiplier=arguments.dry_multiplier,
        dry_base=arguments.dry_base,
        dry_allowed_length=arguments.dry_allowed_length,
        dry_penalty_last_n=arguments.dry_penalty_last_n,
        mirostat=arguments.mirostat,
        mirostat_tau=arguments.mirostat_tau,
        mirostat_eta=arguments.mirostat_eta,
        seed=None if arguments.seed < 0 else arguments.seed,
        max_tokens=arguments.max_tokens,
        stop=arguments.stop or None,
    )


def run_bench(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """pp: one prefill after a reset. tg: ``--max-tokens`` steps at depth pp. One round is discarded, then ``--bench-reps``."""
    core = engine.core
    ids = [index % engine.vocab_size for index in range(arguments.bench_pp)]
    pp_ms, tg_ms, generate_ms = [], [], []
    with_generate = bool(engine.config["bench.generate"])
    params = SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens, ignore_eos=True)
    for repetition in range(arguments.bench_reps + 1):
        core.reset()
        started = time.perf_counter()
        core.bench_prefill(ids)
        prefilled = time.perf_counter()
        for index in range(arguments.max_tokens):
            core.bench_decode(ids[index % len(ids)])
        decoded = time.perf_counter()
        core.reset()
        generated = 0.0
        if with_generate:
            begin = time.perf_counter()
            engine.generate([ids], params)
            generated = time.perf_counter() - begin
        if repetition > 0:
            pp_ms.append((prefilled - started) * 1e3)
            tg_ms.append((decoded - prefilled) * 1e3)
            generate_ms.append(generated * 1e3)
    result: dict[str, Any] = {
        "model": engine.model_description,
        "device": engine.device_name,
        "pp_tokens": arguments.bench_pp,
        "pp_ms": statistics.fmean(pp_ms),
        "prefill_tps": arguments.bench_pp * 1e3 / statistics.fmean(pp_ms),
        "tg_tokens": arguments.max_tokens,
        "tg_ms": statistics.fmean(tg_ms),
        "decode_tps": arguments.max_tokens * 1e3 / statistics.fmean(tg_ms),
        "tg_depth": arguments.bench_pp,
        "reps": arguments.bench_reps,
        **_spread("pp_ms", pp_ms),
        **_spread("tg_ms", tg_ms),
        # What the engine holds on the device only grows, so its total at the end is the peak.
        "peak_vram_mib": 0.0 if engine.device == "cpu" else engine.report()["mem"]["total"] / 2**20,
        "commit": __commit__,
    }
    if with_generate:
        tokens = arguments.max_tokens
        result["generate_ms"] = statistics.fmean(generate_ms)
        result["generate_tps"] = tokens * 1e3 / statistics.fmean(generate_ms)
    result["dispatch"] = engine.report().get("dispatch", {})
    return result


def _spread(name: str, values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {f"{name}_stddev": deviation, f"{name}_min": min(values), f"{name}_max": max(values)}


def print_bench(result: dict[str, Any]) -> None:
    reps = result["reps"]
    print(f"{result['model']}, {result['device']}; prompt of fixed ids, greedy, tg at depth {result['tg_depth']}")
    print(
        f"pp {result['pp_tokens']} tokens avg {result['pp_ms']:.2f} ms ({result['prefill_tps']:.0f} tok/s) [{reps} reps]"
    )
    print(
        f"tg {result['tg_tokens']} tokens avg {result['tg_ms']:.2f} ms ({result['decode_tps']:.1f} tok/s) [{reps} reps]"
    )
    if "generate_ms" in result:
        print(
            f"generate {result['tg_tokens']} tokens avg {result['generate_ms']:.2f} ms "
            f"({result['generate_tps']:.1f} tok/s, prompt, sampling and text included) [{reps} reps]"
        )


def _prompt_ids(engine: Engine, text: str, template: str) -> list[int]:
    name = template
    if name == "auto":
        name = "" if engine.chat_template else "none"
    if name == "none":
        return engine.tokenize(text)
    return engine.chat_ids([{"role": "user", "content": text}], chat_template=name or None)


def _run_prompt(engine: Engine, arguments: argparse.Namespace, params: SamplingParams) -> None:
    text = read_text(arguments.prompt_file, "--prompt-file") if arguments.prompt_file else arguments.prompt
    ids = _prompt_ids(engine, text, arguments.chat_template)
    pieces, finish = [], None
    for delta in engine.stream(ids, params):
        pieces.append(delta.text)
        finish = delta.finish_reason or finish
        if not arguments.json:
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    if arguments.json:
        print_json({"text": "".join(pieces), "prompt_tokens": len(ids), "finish_reason": finish})
    else:
        print()


def _run(arguments: argparse.Namespace) -> None:
    actions = [arguments.bench, arguments.perplexity is not None, arguments.interactive,
               arguments.prompt is not None or arguments.prompt_file is not None]  # fmt: skip
    if sum(actions) != 1:
        raise ValueError("give exactly one of --prompt (or --prompt-file), --interactive, --bench and --perplexity")
    if arguments.prompt is not None and arguments.prompt_file is not None:
        raise ValueError("--prompt and --prompt-file exclude each other")
    check_device(arguments.device)
    check_writable(arguments.report, "--report")
    params = make_params(arguments)
    text = read_text(arguments.perplexity, "--perplexity") if arguments.perplexity is not None else ""
    config = make_config(arguments)
    path = models.resolve(arguments.model, download=True, progress=DownloadBar())
    if arguments.interactive and arguments.chat_template == "auto" and not _core.read_chat_template(str(path)):
        raise ValueError(
            f"{arguments.model} has no chat template; name one with --chat-template, or give plain text with --prompt"
        )
    if arguments.bench:
        set_context(config, None, arguments.bench_pp + arguments.max_tokens + 256)
    budget = 0 if arguments.memory_budget is None else parse_bytes(arguments.memory_budget, "--memory-budget")
    with Waiting(f"loading {path.name}"):
        engine = Engine(
            path,
            config=config,
            device=arguments.device,
            num_threads=arguments.threads,
            memory_budget_bytes=budget,
            log=False,
        )
    with engine:
        if not arguments.json:
            print(f"imp-cli: {engine.device_line}", file=sys.stderr)
        if arguments.bench:
            result = run_bench(engine, arguments)
            if arguments.json:
                print_json(result)
            else:
                print_bench(result)
        elif arguments.perplexity is not None:
            score = engine.perplexity(text, context=512)
            if arguments.json:
                print_json({"perplexity": score.value, "stderr": score.stderr, "windows": score.windows})
            else:
                print(f"perplexity {score.value:.4f} +/- {score.stderr:.4f}")
        elif arguments.interactive:
            from . import chat  # noqa: PLC0415

            template = None if arguments.chat_template == "auto" else arguments.chat_template
            chat.converse(engine, params, system=None, chat_template=template, history=not arguments.no_history)
        else:
            _run_prompt(engine, arguments, params)
        if arguments.report:
            write_text(arguments.report, json.dumps(engine.report(), indent=2) + "\n", "--report")


def main(argv: list[str] | None = None) -> None:
    """Runs one command line and exits with its code; the script comes here by ``imp.cli.main_classic``."""
    arguments = make_parser().parse_args(argv)
    try:
        _run(arguments)
        code = exit_codes.OK
    except exit_codes.EXPECTED as error:
        code = exit_codes.report_error(error, "imp-cli")
    sys.exit(exit_codes.flush_output(code, "imp-cli"))
