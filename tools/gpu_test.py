"""Runs the tests of the CUDA backend on this machine's GPU and writes what came out to bench/results.

    python tools/gpu_test.py BUILD/tests               every cuda_test_* program there -> gpu-test-<gpu>.json
    python tools/gpu_test.py BUILD/tests --sanitize    the op tests under compute-sanitizer -> gpu-sanitize-<gpu>.json

`make gpu-test` and `make gpu-sanitize` build and call it. Ends with 1 where a test failed or none ran.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77  # what a test program returns where there is no device
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Whole models go through cuBLASLt, whose kernels are not ours to check, and failures are made on purpose there.
NOT_SANITIZED = {
    "cuda_test_engine", "cuda_test_failures", "cuda_test_model", "cuda_test_no_device", "cuda_test_settings", "cuda_test_text",
}  # fmt: skip
# Cases that provoke errors of the API, which a sanitizer would report.
LEFT_OUT = {"cuda_test_graphs": "runtime.*,diagnostics.graph_diag*"}
# Steps of a whole model as they are replayed: every kernel of decode in one small case. Addresses alone: the other tools
# take minutes for a model.
WHOLE_MODEL = ("cuda_test_model", "memcheck", "replayed steps*")
COUNTS = re.compile(r"\[doctest\] (test cases|assertions):\s*(\d+) \|\s*(\d+) passed \|\s*(\d+) failed")


def gpu_facts() -> dict[str, str]:
    fields = ["name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "memory.total"]
    try:
        query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        line = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        sys.exit("gpu_test: nvidia-smi finds no GPU here; these tests need one")
    return dict(zip(fields, (value.strip() for value in line.split(",")), strict=True))


def gpu_slug(facts: dict[str, str]) -> str:
    """The GPU's name as a part of a file's: NVIDIA H200 is h200."""
    return re.sub(r"[^a-z0-9]+", "-", facts["name"].lower().removeprefix("nvidia ")).strip("-")


def commit() -> str:
    """The commit under test, with a + where files differ from it."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "cpp", "cuda", "tests"],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def run(command: list[str], limit_s: float) -> dict[str, object]:
    begin = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=limit_s)
        code, text = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as stopped:
        code, text = -1, f"{(stopped.stdout or b'').decode(errors='replace')}\nstopped after {limit_s:.0f} s"
    counts = {what: {"passed": int(ok), "failed": int(bad)} for what, _, ok, bad in COUNTS.findall(text)}
    if code not in (0, SKIPPED):
        print(text[-4000:])
    return {"exit": code, "seconds": round(time.monotonic() - begin, 1), **counts}


def sanitizer_command(tool: str, program: Path, only: str = "") -> list[str]:
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", str(program)]
    if only:
        command.append(f"--test-case={only}")
    if left_out := LEFT_OUT.get(program.name):
        command.append(f"--test-case-exclude={left_out}")
    return command


def sanitizer_work(programs: list[Path], tools: list[str]) -> dict[str, list[str]]:
    """Name of a run -> its command."""
    work = {
        f"{program.name}/{tool}": sanitizer_command(tool, program)
        for program in programs
        if program.name not in NOT_SANITIZED
        for tool in tools
    }
    name, tool, only = WHOLE_MODEL
    for program in programs:
        if program.name == name and tool in tools:
            work[f"{name}/{tool}"] = sanitizer_command(tool, program, only)
    return work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="folder with the cuda_test_* programs")
    parser.add_argument("--sanitize", action="store_true", help="under compute-sanitizer")
    parser.add_argument("--tool", choices=SANITIZERS, action="append", help="this sanitizer alone")
    parser.add_argument("--jobs", type=int, default=1, help="programs at a time")
    parser.add_argument("--commit", default=None, help="name of the commit, where the programs were built elsewhere")
    parser.add_argument("--limit", type=float, default=600, help="seconds a program may take")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the result")
    args = parser.parse_args()

    programs = sorted(path for path in args.programs.resolve().glob("cuda_test_*") if path.is_file())
    gpu = gpu_facts()
    if args.sanitize:
        work = sanitizer_work(programs, args.tool or list(SANITIZERS))
    else:
        work = {program.name: [str(program)] for program in programs}
    results: dict[str, dict[str, object]] = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {name: pool.submit(run, command, args.limit) for name, command in work.items()}
        for name, future in running.items():
            results[name] = future.result()
            print(f"{name}: {'ok' if results[name]['exit'] == 0 else results[name]}", flush=True)

    failed = [name for name, result in results.items() if result["exit"] != 0]
    kind = "gpu-sanitize" if args.sanitize else "gpu-test"
    report = {
        "kind": kind,
        "commit": args.commit or commit(),
        "gpu": gpu,
        "programs": len(results),
        "failed": failed,
        "results": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{kind}-{gpu_slug(gpu)}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{len(results) - len(failed)} of {len(results)} passed on {gpu['name']}; written to {path}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
