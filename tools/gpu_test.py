"""Runs the tests of the CUDA backend on this machine's GPU and writes what came out to bench/results.

    python tools/gpu_test.py BUILD/tests               every cuda_test_* program there -> gpu-test-<gpu>.json
    python tools/gpu_test.py BUILD/tests --sanitize    their cases under compute-sanitizer -> gpu-sanitize-<gpu>.json

Under a sanitizer each case is a process of its own, the ones that took longest the last time first, and the kernels
that the cases launch (tools/kernel_trace.cpp) are compared with those that the programs hold.

`make gpu-test` and `make gpu-sanitize` build and call it. Ends with 1 where a test failed or none ran.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77  # what a test program returns where there is no device
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# What none of the tools can run: failures made on purpose, or programs that start others.
NOT_SANITIZED = {"cuda_test_failures", "cuda_test_no_device"}
# Whole models: cuBLASLt's kernels, which are not ours to check, and whatever the ops' own programs do not launch.
# Addresses alone, and only cases of this many seconds without a tool.
WHOLE_MODELS = {"cuda_test_engine", "cuda_test_model", "cuda_test_settings", "cuda_test_text"}
# Cases that provoke errors of the API, which a sanitizer would report.
LEFT_OUT = {
    "cuda_test_graphs": "runtime.*,diagnostics.graph_diag*",
    "cuda_test_engine": "*gives its memory back*",
    "cuda_test_text": "*new processes*",
}
COUNTS = re.compile(r"\[doctest\] (test cases|assertions):\s*(\d+) \|\s*(\d+) passed \|\s*(\d+) failed")
FEW = "IMP_TEST_FEW"  # tests then take few shapes (tests/support/few.h)
HOST_ONLY = "terminated before first instrumented API call"


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


def run(command: list[str], limit_s: float, env: dict[str, str]) -> dict[str, Any]:
    begin = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(os.environ, **env),
        start_new_session=True,  # the tools start the program as a process of theirs
    ) as process:
        try:
            text, _ = process.communicate(timeout=limit_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, code = f"{process.communicate()[0]}\nstopped after {limit_s:.0f} s", -1
    counts = {what: {"passed": int(ok), "failed": int(bad)} for what, _, ok, bad in COUNTS.findall(text)}
    result: dict[str, Any] = {"exit": code, "seconds": round(time.monotonic() - begin, 1), **counts}
    if HOST_ONLY in text and "Status: SUCCESS" in text:  # nothing to check, which the tools call an error
        result.update({"exit": 0, "host_only": True})
    elif code not in (0, SKIPPED):
        print(text if len(text) < 6000 else f"{text[:4000]}\n...\n{text[-2000:]}", flush=True)
    return result


@dataclass(frozen=True)
class Case:
    """A test case of a program, and how to run it alone: doctest counts the cases that the filter leaves."""

    program: Path
    number: int  # from 1
    name: str

    def command(self, tool: str) -> list[str]:
        checked = [] if tool == TRACE else ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
        return [*checked, str(self.program), *left_out(self.program), f"--first={self.number}", f"--last={self.number}"]


TRACE = "trace"  # no sanitizer: which kernels are launched


def left_out(program: Path) -> list[str]:
    names = LEFT_OUT.get(program.name)
    return [f"--test-case-exclude={names}"] if names else []


def cases_of(program: Path) -> list[Case]:
    listed = subprocess.run(
        [str(program), "--list-test-cases", *left_out(program)], capture_output=True, text=True, check=True
    )
    names = [line for line in listed.stdout.splitlines() if line and not line.startswith(("[doctest]", "==="))]
    return [Case(program, number, name) for number, name in enumerate(names, 1)]


def sanitizer_work(programs: list[Path], tools: list[str]) -> list[tuple[Case, str]]:
    """Which case runs under which tool."""
    return [
        (case, tool)
        for program in programs
        if program.name not in NOT_SANITIZED
        for case in cases_of(program)
        for tool in (*tools, TRACE)
        if tool in ("memcheck", TRACE) or program.name not in WHOLE_MODELS
    ]


def cuda_folders(kind: str) -> list[str]:
    """Where a CUDA toolkit, or the pip packages of this Python, have CUPTI's headers or libraries."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    names = ("lib", "lib64") if kind == "lib" else (kind,)
    found = [toolkit / part / name for part in ("", "extras/CUPTI") for name in names]
    found += [path for entry in sys.path for path in Path(entry or ".").glob(f"nvidia/*/{kind}")]
    return [str(path) for path in found if path.is_dir()]


def build_trace(folder: Path) -> Path | None:
    """The library that writes down launched kernels; None, said so, where this machine cannot build it."""
    library = folder / "kernel_trace.so"
    command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", str(ROOT / "tools" / "kernel_trace.cpp")]
    command += [f"-I{path}" for path in cuda_folders("include")] + ["-o", str(library), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"gpu_test: kernels are not counted: {getattr(error, 'stderr', '') or error}")
        return None
    return library


def kernels_in(programs: list[Path]) -> set[str]:
    found: set[str] = set()
    for program in programs:
        listed = subprocess.run(["cuobjdump", "-res-usage", str(program)], capture_output=True, text=True, check=False)
        found.update(re.findall(r"Function (\S+?):", listed.stdout))
    return found


def readable(names: set[str]) -> list[str]:
    text = subprocess.run(["c++filt"], input="\n".join(sorted(names)), capture_output=True, text=True, check=False)
    return sorted(text.stdout.split("\n")) if names else []


def sanitize(programs: list[Path], args: argparse.Namespace, seconds_before: dict[str, float]) -> dict[str, Any]:
    work = sanitizer_work(programs, args.tool or list(SANITIZERS))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build_trace(folder)
        tracing = {
            "CUDA_INJECTION64_PATH": str(library),
            "KERNEL_TRACE": str(folder / "trace"),
            "LD_LIBRARY_PATH": ":".join([os.environ.get("LD_LIBRARY_PATH", ""), *cuda_folders("lib")]),
        }
        if not library:
            work = [(case, tool) for case, tool in work if tool != TRACE]

        def key(case: Case, tool: str) -> str:
            return f"{case.program.name}/{tool}/{case.name}"

        def start(case: Case, tool: str) -> Callable[[], dict[str, Any]]:
            def work_off() -> dict[str, Any]:
                if time.monotonic() > args.end:
                    return {"exit": -1, "seconds": 0.0, "not_run": True}
                return run(case.command(tool), args.limit, {FEW: "1", **(tracing if tool == TRACE else {})})

            return work_off

        work.sort(key=lambda item: -seconds_before.get(key(*item), 90.0 if item[1] == "racecheck" else 60.0))
        cases: dict[str, dict[str, Any]] = {}
        with ThreadPoolExecutor(args.jobs) as pool:
            running = {key(case, tool): pool.submit(start(case, tool)) for case, tool in work}
            for name_of_run, future in running.items():
                cases[name_of_run] = future.result()
                if cases[name_of_run]["exit"] != 0 and "not_run" not in cases[name_of_run]:
                    print(f"{name_of_run}: {cases[name_of_run]}", flush=True)
        launched = {line for path in folder.glob("trace.*") for line in path.read_text().split()}
    checked = [program for program in programs if program.name not in NOT_SANITIZED]
    present = kernels_in(checked) if library else set()

    results: dict[str, dict[str, Any]] = {}
    for case, tool in work:
        if tool == TRACE:
            continue
        result = results.setdefault(f"{case.program.name}/{tool}", {"exit": 0, "cases": 0, "passed": 0, "seconds": 0.0})
        of_case = cases[key(case, tool)]
        result["cases"] += 1
        result["passed"] += of_case["exit"] == 0
        result["seconds"] = round(result["seconds"] + of_case["seconds"], 1)
        result["exit"] = result["exit"] or of_case["exit"]
    for name_of_program, result in results.items():
        print(f"{name_of_program}: {result['passed']} of {result['cases']} cases, {result['seconds']} s")
    return {
        "results": results,
        "failed": [name_of_run for name_of_run, of_case in cases.items() if of_case["exit"] != 0],
        "kernels": {
            "in_programs": len(present),
            "launched": len(present & launched),
            "not_launched": readable(present - launched),
        },
        "seconds_of_cases": {name_of_run: of_case["seconds"] for name_of_run, of_case in sorted(cases.items())},
    }


def test(programs: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {program.name: pool.submit(run, [str(program)], args.limit, {}) for program in programs}
        for name, future in running.items():
            results[name] = future.result()
            print(f"{name}: {'ok' if results[name]['exit'] == 0 else results[name]}", flush=True)
    return {"results": results, "failed": [name for name, result in results.items() if result["exit"] != 0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="folder with the cuda_test_* programs")
    parser.add_argument("--sanitize", action="store_true", help="under compute-sanitizer")
    parser.add_argument("--tool", choices=SANITIZERS, action="append", help="this sanitizer alone")
    parser.add_argument("--jobs", type=int, default=1, help="programs at a time")
    parser.add_argument("--commit", default=None, help="name of the commit, where the programs were built elsewhere")
    parser.add_argument("--limit", type=float, default=600, help="seconds a program may take")
    parser.add_argument("--deadline", type=float, default=3600, help="seconds after which no further case is begun")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the result")
    args = parser.parse_args()

    programs = sorted(path for path in args.programs.resolve().glob("cuda_test_*") if path.is_file())
    gpu = gpu_facts()
    kind = "gpu-sanitize" if args.sanitize else "gpu-test"
    path = args.out / f"{kind}-{gpu_slug(gpu)}.json"
    begin = time.monotonic()
    args.end = begin + args.deadline
    if args.sanitize:
        before = json.loads(path.read_text()).get("seconds_of_cases", {}) if path.is_file() else {}
        found = sanitize(programs, args, before)
    else:
        found = test(programs, args)
    results, failed = found["results"], found["failed"]
    report = {
        "kind": kind,
        "commit": args.commit or commit(),
        "gpu": gpu,
        "programs": len(results),
        "seconds": round(time.monotonic() - begin, 1),
        **found,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    good = sum(result["exit"] == 0 for result in results.values())
    print(f"{good} of {len(results)} passed on {gpu['name']} in {report['seconds']} s; written to {path}")
    for name in found.get("kernels", {}).get("not_launched", []):
        print(f"never launched: {name}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
