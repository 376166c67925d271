"""Measures imp on this machine's GPU, and llama.cpp beside it on the same files, and writes bench/results/gpu-bench-<gpu>.json.

    python tools/gpu_bench.py --models DIR [--llama-bench PATH] [--package DIR] [--out DIR] [NAME ...]

NAME is the stem of a GGUF file in DIR; a file that is missing is made by tools/synth_model.py, if that knows the name. Without
names: the six files of docs/performance.md. --package is a folder that holds imp/, for machines where nothing is installed.
`make gpu-bench MODELS=DIR` builds, installs and calls it.

Engines take turns, one process a model and engine, so that neither meets the other's memory. imp runs what `imp bench` runs
(prompt processing, then single tokens; logits are neither copied to the host nor sampled); gen128 and the time to the first
token go through Engine.generate, greedy. Rows are medians of repetitions after one that is not counted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu_test import commit, gpu_facts, gpu_slug

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("llama-1b-bf16", "llama-1b-q4_k_m", "qwen3-0.6b-q8_0", "qwen3-8b-q8_0", "qwen3-8b-q6_k", "qwen3-8b-q4_k_m")
TESTS = ("pp128", "pp512", "pp4096", "tg128", "tg64 @ d16384")
ALL_ROWS = (*TESTS, "gen128")
LIMIT_S = 150  # a process that takes longer is stopped, and its rows are missing


def parse_test(name: str) -> tuple[int, int, int]:
    """pp512, tg64 @ d16384: prompt tokens, generated tokens, depth."""
    match = re.fullmatch(r"(pp|tg)(\d+)(?: @ d(\d+))?", name)
    if not match:
        raise ValueError(f"{name}: expected ppN or tgN, and @ dN behind it")
    count, depth = int(match.group(2)), int(match.group(3) or 0)
    return (count, 0, depth) if match.group(1) == "pp" else (0, count, depth)


def test_name(n_prompt: int, n_gen: int, n_depth: int) -> str:
    return (f"pp{n_prompt}" if n_prompt else f"tg{n_gen}") + (f" @ d{n_depth}" if n_depth else "")


def repetitions_at(depth: int, repetitions: int) -> int:
    """Fewer where each one computes a long context first."""
    return repetitions if depth == 0 else max(2, repetitions - 3)


# ---- imp: runs in a process of its own


def measure_imp(model: str, settings: list[str], repetitions: int) -> dict[str, Any]:
    """All rows of one model."""
    import imp  # noqa: PLC0415  the package comes with PYTHONPATH
    from imp import _core  # noqa: PLC0415

    tests = [parse_test(name) for name in TESTS]
    config = imp.RuntimeConfig()
    config.set("runtime.max_seq_len", str(max(sum(test) for test in tests) + 64))
    config.set("runtime.max_batch_size", "1")
    for setting in settings:
        key, _, value = setting.partition("=")
        config.set(key, value)
    started = time.perf_counter()
    engine = imp.Engine(model, config=config, device="cuda")
    load_s = time.perf_counter() - started
    core = engine.core
    ids = random.Random(1)

    def tokens(count: int) -> list[int]:
        return [ids.randrange(engine.vocab_size) for _ in range(count)]

    def prepare(depth: int) -> None:
        core.reset()
        if depth:
            core.bench_prefill(tokens(depth))

    def timed(count: int, run: Callable[[], None], before: Callable[[], None], times: int) -> dict[str, Any]:
        samples = []
        for repetition in range(times + 1):
            before()
            begin = time.perf_counter()
            run()
            if repetition > 0:
                samples.append(count / (time.perf_counter() - begin))
        return row_of(samples)

    rows: dict[str, Any] = {}
    launches_per_token = 0.0
    for name, (n_prompt, n_gen, depth) in zip(TESTS, tests, strict=True):
        prompt, generated = tokens(n_prompt), tokens(n_gen)

        def run(prompt: list[int] = prompt, generated: list[int] = generated) -> None:
            if prompt:
                core.bench_prefill(prompt)
            for token in generated:
                core.bench_decode(token)

        times = repetitions_at(depth, repetitions)
        earlier = sum(engine.report()["launches"].values())
        rows[name] = timed(n_prompt + n_gen, run, lambda depth=depth: prepare(depth), times)
        if n_gen and not depth:
            launches = sum(engine.report()["launches"].values()) - earlier
            launches_per_token = launches / (n_gen * (times + 1))
    core.reset()

    def generate(prompt: list[int], count: int) -> None:
        engine.generate([prompt], imp.SamplingParams(temperature=0, max_tokens=count, ignore_eos=True))

    rows["gen128"] = timed(128, lambda: generate(tokens(16), 128), lambda: None, repetitions)
    first_token = timed(1, lambda: generate(tokens(128), 1), lambda: None, max(5, repetitions))
    report, layers = engine.report(), engine.explain([1])["spec"]["layers"]
    kv_bytes = sum(
        (kind["last"] - kind["first"] + 1) * kind["num_kv_heads"] * kind["head_dim"] * 2 * 2 for kind in layers
    )
    result = {
        "version": imp.__version__,
        "commit": _core.__commit__,
        "device": report["device"]["name"],
        "settings": settings,
        "load_s": load_s,
        "rows": rows,
        "first_token_128_ms": 1e3 / statistics.median(first_token["samples"]),
        "bytes_per_token": core.bytes_per_token,
        "kv_bytes_per_position": kv_bytes,
        "launches_per_token": launches_per_token,
        "read_bytes_per_s": _core.measure_gpu_read_bandwidth(0),
        "graphs": report["graphs"],
        "dispatch": report["dispatch"]["resolved"],
        "gemm": report["gemm"],
        "memory": report["mem"],
    }
    engine.close()
    return result


def row_of(samples: list[float]) -> dict[str, Any]:
    """Tokens a second: median, deviation and each repetition. Medians, because a library's first call may fall into one."""
    deviation = statistics.stdev(samples) if len(samples) > 1 else 0.0
    return {"median": statistics.median(samples), "stdev": deviation, "samples": samples}


# ---- processes


def run(command: list[str], environment: dict[str, str]) -> str:
    """What it printed; where it failed, an exit with its last words."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **environment}
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command)}: stopped after {LIMIT_S} s") from None
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def shown(command: list[str]) -> str:
    """A command as results keep it: programs and files by name, since folders are the machine's own."""
    return " ".join(Path(part).name if part.startswith("/") else part for part in command)


def imp_command(model: Path, settings: list[str], repetitions: int) -> list[str]:
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--measure",
        str(model),
        "--repetitions",
        str(repetitions),
    ]
    return command + [part for setting in settings for part in ("--set", setting)]


def parse_imp(output: str) -> dict[str, Any]:
    """The last line is the result; what comes before is chatter."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"imp printed no result: {output[-500:]!r}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def llama_commands(program: Path, model: Path, repetitions: int) -> list[list[str]]:
    """Two runs: at depth 0, and the rows at a depth, which would otherwise be combined with every prompt length."""
    common = [str(program), "-m", str(model), "-ngl", "99", "-fa", "1", "-o", "json"]
    tests = [parse_test(name) for name in TESTS]
    shallow = [test for test in tests if not test[2]]
    prompts = ",".join(str(test[0]) for test in shallow if test[0])
    generations = ",".join(str(test[1]) for test in shallow if test[1])
    commands = [[*common, "-p", prompts, "-n", generations, "-r", str(repetitions)]]
    for n_prompt, n_gen, depth in tests:
        if depth:
            deep = [
                "-p",
                str(n_prompt),
                "-n",
                str(n_gen),
                "-d",
                str(depth),
                "-r",
                str(repetitions_at(depth, repetitions)),
            ]
            commands.append([*common, *deep])
    return commands


def parse_llama(output: str) -> dict[str, Any]:
    """Rows of llama-bench -o json by our names, and what was built."""
    start = output.find("[")
    if start < 0:
        raise RuntimeError(f"llama-bench printed no JSON: {output[-500:]!r}")
    rows, build = {}, ""
    for entry in json.loads(output[start:]):
        name = test_name(entry["n_prompt"], entry["n_gen"], entry.get("n_depth", 0))
        rows[name] = row_of(entry["samples_ts"])
        build = f"{entry['build_number']} ({entry['build_commit']}), {entry['backends']}, {entry['gpu_info']}"
    return {"build": build, "rows": rows}


class Clocks:
    """What the GPU's clocks and power were while something ran."""

    FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")

    def __init__(self) -> None:
        query = ["nvidia-smi", f"--query-gpu={','.join(self.FIELDS)}", "--format=csv,noheader,nounits", "-l", "2"]
        self._lines: list[str] = []
        self._process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        self._lines.extend(self._process.stdout)

    def now(self) -> dict[str, list[float]]:
        """Lowest and highest of each field so far."""
        return spans(self._lines[:], self.FIELDS)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join(5)
        if self._process.stdout:
            self._process.stdout.close()


def spans(lines: list[str], fields: tuple[str, ...]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(fields):
            continue
        for field, cell in zip(fields, cells, strict=True):
            if re.fullmatch(r"[\d.]+", cell):
                values.setdefault(field, []).append(float(cell))
    return {field: [min(found), max(found)] for field, found in values.items()}


# ---- the table


def read_share(imp: dict[str, Any], name: str) -> float | None:
    """Share of the card's read bandwidth that generating takes: the weights, and the middle of the context's keys."""
    n_prompt, n_gen, depth = parse_test(name)
    if n_prompt or not imp["read_bytes_per_s"]:
        return None
    bytes_per_token = imp["bytes_per_token"] + imp["kv_bytes_per_position"] * (depth + n_gen / 2)
    return float(imp["rows"][name]["median"] * bytes_per_token / imp["read_bytes_per_s"])


def cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return (
        f"{row['median']:.1f} ± {row['stdev']:.1f}"
        if row["median"] < 10000
        else f"{row['median']:.0f} ± {row['stdev']:.0f}"
    )


def table(models: dict[str, Any]) -> list[str]:
    """One line a model and test; a dash stands where an engine has no figure."""
    lines = [
        "| model | test | imp t/s | llama.cpp t/s | imp / llama.cpp | of read bandwidth |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for model, result in models.items():
        imp, llama = result.get("imp"), result.get("llama_cpp")
        for name in ALL_ROWS:
            ours = imp["rows"].get(name) if imp else None
            theirs = llama["rows"].get(name) if llama else None
            if ours is None and theirs is None:
                continue
            ratio = f"{ours['median'] / theirs['median']:.2f}" if ours and theirs else "-"
            share = read_share(imp, name) if ours and name in TESTS else None
            percent = "-" if share is None else f"{100 * share:.0f} %"
            lines.append(f"| {model} | {name} | {cell(ours)} | {cell(theirs)} | {ratio} | {percent} |")
    lines += [
        "",
        "| model | first token of 128, ms | load, s | launches a token | GB a token |",
        "|---|---:|---:|---:|---:|",
    ]
    for model, result in models.items():
        if imp := result.get("imp"):
            lines.append(
                f"| {model} | {imp['first_token_128_ms']:.2f} | {imp['load_s']:.2f} | "
                f"{imp['launches_per_token']:.0f} | {imp['bytes_per_token'] / 1e9:.3f} |"
            )
    return lines


def measure_all(
    args: argparse.Namespace, names: list[str], models: dict[str, Any], failures: list[str]
) -> Iterator[str]:
    """Both engines on every model, whose name comes when its figures are in `models`; failures are words, and the rest goes on."""
    environment = {"PYTHONPATH": str(args.package.resolve())} if args.package else {}
    # The libraries of llama-bench usually lie beside it.
    library_path = f"{args.llama_bench.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}" if args.llama_bench else ""
    for name in names:
        model = args.models / f"{name}.gguf"
        result: dict[str, Any] = {"file_bytes": model.stat().st_size, "commands": []}

        def imp(result: dict[str, Any] = result, model: Path = model) -> None:
            command = imp_command(model, args.set, args.repetitions)
            result["commands"].append(shown(command))
            result["imp"] = parse_imp(run(command, environment))

        def llama(result: dict[str, Any] = result, model: Path = model) -> None:
            for command in llama_commands(args.llama_bench, model, args.repetitions):
                result["commands"].append(shown(command))
                part = parse_llama(run(command, {"LD_LIBRARY_PATH": library_path}))
                known = result.setdefault("llama_cpp", {"build": part["build"], "rows": {}})
                known["rows"].update(part["rows"])

        for engine in (imp, llama) if args.llama_bench else (imp,):
            try:
                engine()
            except (RuntimeError, KeyError, ValueError) as error:
                failures.append(f"{name}: {engine.__name__}: {error}")
                print(failures[-1], file=sys.stderr)
        models[name] = result
        print("\n".join(table({name: result})), flush=True)
        yield name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="stems of the files")
    parser.add_argument("--models", type=Path, help="folder of the GGUF files; missing ones are made there")
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's benchmark program, built with CUDA")
    parser.add_argument("--package", type=Path, help="folder that holds imp/, where it is not installed")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the result")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of imp")
    parser.add_argument("--repetitions", type=int, default=5, help="of a row; fewer at a depth")
    parser.add_argument("--commit", help="name of the commit, where the package was built elsewhere")
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_imp(args.measure, args.set, args.repetitions)))
        return 0

    if args.models is None:
        parser.error("--models DIR is missing")
    names = args.names or list(MODELS)
    gpu = gpu_facts()
    missing = [name for name in names if not (args.models / f"{name}.gguf").is_file()]
    if missing:
        try:
            from synth_model import write_models  # noqa: PLC0415  needs gguf, which files that are there do not

            write_models(missing, args.models, jobs=6)
        except (ImportError, ValueError) as error:
            sys.exit(f"gpu_bench: {', '.join(missing)} not in {args.models}, and cannot be made: {error}")
    if args.llama_bench:
        args.llama_bench = args.llama_bench.resolve()
    started = datetime.datetime.now(datetime.UTC)
    clocks = Clocks()
    models: dict[str, Any] = {}
    failures: list[str] = []
    report: dict[str, Any] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"gpu-bench-{gpu_slug(gpu)}.json"
    for _ in measure_all(args, names, models, failures):
        commits = {result["imp"]["commit"] for result in models.values() if "imp" in result}
        report = {
            "kind": "gpu-bench",
            "commit": args.commit or (commits.pop() if len(commits) == 1 else commit()),
            "date": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seconds": round((datetime.datetime.now(datetime.UTC) - started).total_seconds(), 1),
            "complete": len(models) == len(names),
            "command": shown(sys.argv),
            "gpu": gpu,
            "while_running": clocks.now(),
            "failures": failures,
            "models": models,
        }
        path.write_text(json.dumps(report, indent=1) + "\n")  # after each model: whoever stops this has those before
    clocks.stop()
    print("\n".join(["", f"{gpu['name']}, commit {report['commit']}, {report['seconds']} s", *table(models)]))
    print(f"written to {path}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
