"""Runs the tests of the CUDA backend on this machine's GPU and writes what came out to bench/results.

    python tools/gpu_test.py BUILD/tests               every cuda_test_* program there -> gpu-test-<gpu>.json
    python tools/gpu_test.py BUILD/tests --sanitize    their cases under compute-sanitizer -> gpu-sanitize-<gpu>.json

Under a sanitizer cases take few shapes (tests/support/few.h), the processes that took longest the last time come first,
and the kernels that they launch (tools/kernel_trace.cpp) are compared with those that the programs hold.

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
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77  # what a test program returns where there is no device
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# What none of the tools can run: failures made on purpose, or programs that start others.
NOT_SANITIZED = {"cuda_test_failures", "cuda_test_no_device"}
# Whole models: cuBLASLt's kernels, which are not ours to check, and whatever the ops' own programs do not launch.
# Addresses alone.
WHOLE_MODELS = {
    "cuda_test_attention_keys",
    "cuda_test_engine",
    "cuda_test_model",
    "cuda_test_settings",
    "cuda_test_text",
}
# Cases that provoke errors of the API, which a sanitizer would report.
LEFT_OUT = {
    "cuda_test_graphs": "runtime.*,diagnostics.graph_diag*",
    "cuda_test_engine": "*gives its memory back*",
    "cuda_test_text": "*new processes*",
}
COUNTS = re.compile(r"\[doctest\] (test cases|assertions):\s*(\d+) \|\s*(\d+) passed \|\s*(\d+) failed")
# Processes of a program: one reads and rewrites all kernels that it holds before it begins, which takes seconds.
SHARES = {
    "cuda_test_attention": 3, "cuda_test_attention_decode": 4, "cuda_test_engine": 4, "cuda_test_linear": 20,
    "cuda_test_fused_gemm": 6, "cuda_test_sample": 4, "cuda_test_text": 3,
}  # fmt: skip
# Kernels of the library synchronize in ways of their own. Names are mangled: imp::cuda; "one_tile" is of a test.
OURS = ["--kernel-name", "kernel_substring=3imp4cuda", "--kernel-name", "kernel_substring=one_tile"]
OPTIONS: dict[str, list[str]] = {"memcheck": [], "racecheck": OURS, "initcheck": [], "synccheck": OURS}
CASE = re.compile(r"^([\d.]+) s: (.*)$", re.MULTILINE)
FEW = "IMP_TEST_FEW"  # tests then take few shapes (tests/support/few.h)
TELLING = re.compile(
    r"ERROR|Error|error|Race reported|Uninitialized|Invalid|Barrier|hazard|SUMMARY|TEST CASE|CRASHED|values:|stopped after|    at "
)
HOST_ONLY = "terminated before first instrumented API call"


def gpu_facts() -> dict[str, str]:
    fields = ["name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "memory.total"]
    try:
        query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        line = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        sys.exit("gpu_test: nvidia-smi finds no GPU here; these tests need one")
    return dict(zip(fields, (value.strip() for value in line.split(",")), strict=True))


def devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES can be, to have a process on each GPU."""
    if allowed := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return allowed.split(",")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(index) for index in range(max(1, len(listed.splitlines())))]


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


def essence(text: str) -> list[str]:
    """What a report keeps of a failure: the lines that say what was wrong, without folders, which are the machine's own."""
    lines = [line.lstrip("= ").strip() for line in text.splitlines() if TELLING.search(line)]
    lines = [re.sub(r"(?:/[\w.+-]+)+/", "", line)[:300] for line in lines]
    return lines if len(lines) <= 40 else [*lines[:30], "...", *lines[-9:]]


def run(key: str, command: list[str], limit_s: float, env: dict[str, str]) -> dict[str, Any]:
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
    seconds = {name: round(float(number), 1) for number, name in CASE.findall(text)}
    result: dict[str, Any] = {"exit": code, "seconds": round(time.monotonic() - begin, 1), **counts}
    if HOST_ONLY in text and "Status: SUCCESS" in text:  # nothing to check, which the tools call an error
        result.update({"exit": 0, "host_only": True})
    elif code not in (0, SKIPPED):
        words = text if len(text) < 6000 else f"{text[:4000]}\n...\n{text[-2000:]}"
        print(f"---- {key}: exit {code} after {result['seconds']} s\n{words}", flush=True)
        result["said"] = essence(text)
    return {**result, "case_seconds": seconds}


TRACE = "trace"  # no sanitizer: which kernels are launched
NOT_RUN: dict[str, Any] = {"exit": -1, "seconds": 0.0, "case_seconds": {}, "not_run": True}


@dataclass(frozen=True)
class Share:
    """Cases of a program that one process runs, one after another. doctest counts those that the filter leaves."""

    program: Path
    first: int  # from 1
    names: tuple[str, ...]

    def command(self, tool: str, sanitizer: str = "compute-sanitizer") -> list[str]:
        checked = [] if tool == TRACE else [sanitizer, "--tool", tool, "--error-exitcode", "1", *OPTIONS[tool]]
        last = self.first + len(self.names) - 1
        return [
            *checked,
            str(self.program),
            *left_out(self.program),
            "--duration=true",
            f"--first={self.first}",
            f"--last={last}",
        ]

    def key(self, tool: str) -> str:
        return f"{self.program.name}/{tool}/{self.first}"


def left_out(program: Path) -> list[str]:
    return [f"--test-case-exclude={LEFT_OUT[program.name]}"] if program.name in LEFT_OUT else []


def cases_of(program: Path) -> list[str]:
    listed = subprocess.run(
        [str(program), "--list-test-cases", *left_out(program)], capture_output=True, text=True, check=True
    )
    return [line for line in listed.stdout.splitlines() if line and not line.startswith(("[doctest]", "==="))]


def shares_of(program: Path, seconds: dict[str, float], passed_before: list[str]) -> list[Share]:
    """Cuts a program's cases, in their order, into as many shares as SHARES says, about equally long. Where some passed
    before, the others are a share each."""
    names = cases_of(program)
    if passed_before:
        return [Share(program, i, (name,)) for i, name in enumerate(names, 1) if name not in passed_before]
    times = [seconds.get(name, 1.0) + 0.1 for name in names]
    count = min(SHARES.get(program.name, 1), len(names))
    shares: list[Share] = []
    first, passed = 0, 0.0
    for end in range(1, len(names) + 1):
        passed += times[end - 1]
        left = count - len(shares)
        full = passed + (times[end] / 2 if end < len(names) else 0) >= sum(times) * (len(shares) + 1) / count
        if end == len(names) or (left > 1 and (full or len(names) - end < left)):
            shares.append(Share(program, first + 1, tuple(names[first:end])))
            first = end
    return shares


def sanitizer_work(
    programs: list[Path],
    tools: list[str],
    before: dict[str, dict[str, float]] | None = None,
    passed: dict[str, list[str]] | None = None,
) -> list[tuple[Share, str]]:
    """Which cases run under which tool, those first that took longest `before` (program/tool -> case -> seconds), without
    those that `passed`."""
    work = []
    for program in programs:
        for tool in (*tools, TRACE):
            if program.name in NOT_SANITIZED or (program.name in WHOLE_MODELS and tool not in ("memcheck", TRACE)):
                continue
            name_of_run = f"{program.name}/{tool}"
            seconds = (before or {}).get(name_of_run, {})
            for share in shares_of(program, seconds, (passed or {}).get(name_of_run, [])):
                known = sum(seconds.get(name, 5.0) for name in share.names)
                work.append((known if tool == "racecheck" or seconds else known / 10, share, tool))
    work.sort(key=lambda item: -item[0])
    return [(share, tool) for _, share, tool in work]


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


def by_program(
    work: list[tuple[Share, str]], runs: dict[str, dict[str, Any]], earlier: dict[str, Any]
) -> dict[str, Any]:
    """The shares that ran so far, and what passed in an earlier part of this run, put together: program/tool -> result,
    -> cases that passed, -> seconds of cases."""
    passed: dict[str, list[str]] = {name: list(cases) for name, cases in earlier.get("passed_cases", {}).items()}
    seconds: dict[str, dict[str, float]] = {
        name: dict(cases) for name, cases in earlier.get("seconds_of_cases", {}).items() if name in passed
    }
    results: dict[str, dict[str, Any]] = {
        name: {"exit": 0, "cases": len(cases), "passed": len(cases), "seconds": round(sum(seconds[name].values()), 1)}
        for name, cases in passed.items()
        if not name.endswith(f"/{TRACE}")
    }
    for share, tool in sorted(work, key=lambda item: (item[0].program.name, item[1], item[0].first)):
        of_share = runs.get(share.key(tool), NOT_RUN)
        name_of_run = f"{share.program.name}/{tool}"
        seconds.setdefault(name_of_run, {}).update(of_share["case_seconds"])
        if of_share["exit"] == 0:
            passed.setdefault(name_of_run, []).extend(share.names)
        if tool == TRACE:
            continue
        result = results.setdefault(name_of_run, {"exit": 0, "cases": 0, "passed": 0, "seconds": 0.0})
        result["cases"] += len(share.names)
        result["passed"] += len(share.names) if of_share["exit"] == 0 else 0
        result["seconds"] = round(result["seconds"] + of_share["seconds"], 1)
        result["exit"] = result["exit"] or of_share["exit"]
        if said := of_share.get("said"):
            result.setdefault("said", []).extend(said)
    results = dict(sorted(results.items()))
    return {
        "results": results,
        "failed": failed_of(results),
        "left_out": LEFT_OUT,
        "seconds_of_cases": seconds,
        "passed_cases": passed,
    }


def find_sanitizer() -> str:
    """compute-sanitizer of this Python's packages, which is younger than most toolkits', or the one on the path."""
    found = [path for entry in sys.path for path in Path(entry or ".").glob("nvidia/*/compute-sanitizer/*")]
    return next((str(path) for path in found if path.name == "compute-sanitizer"), "compute-sanitizer")


def sanitizer_version(sanitizer: str) -> str:
    try:
        words = subprocess.run([sanitizer, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"gpu_test: {sanitizer} does not run ({error}); pip install nvidia-cuda-sanitizer-api")
    version = re.search(r"Version ([\d.]+)", words)
    return version[1] if version else "unknown"


def failed_of(results: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, result in results.items() if result["exit"] != 0]


def earlier_part(report: dict[str, Any]) -> dict[str, Any]:
    """What counts of an earlier part of a run. One that was stopped did not come to say which kernels it had launched: its
    traces are made again."""
    if "kernels" in report:
        return report
    passed = {name: cases for name, cases in report.get("passed_cases", {}).items() if not name.endswith(f"/{TRACE}")}
    return {**report, "passed_cases": passed}


def sanitize(
    programs: list[Path], args: argparse.Namespace, before: dict[str, Any], save: Callable[..., None]
) -> dict[str, Any]:
    """`before`: the report of another run; of an earlier part of this one with --continue."""
    earlier = earlier_part(before) if args.proceed else {}
    work = sanitizer_work(
        programs, args.tool or list(SANITIZERS), before.get("seconds_of_cases"), earlier.get("passed_cases")
    )
    gpus = devices()
    runs: dict[str, dict[str, Any]] = {}

    def found() -> dict[str, Any]:
        return by_program(work, runs, earlier)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build_trace(folder)
        tracing = {
            "CUDA_INJECTION64_PATH": str(library),
            "KERNEL_TRACE": str(folder / "trace"),
            "LD_LIBRARY_PATH": ":".join([os.environ.get("LD_LIBRARY_PATH", ""), *cuda_folders("lib")]),
        }

        def run_share(number: int, share: Share, tool: str) -> dict[str, Any]:
            if time.monotonic() > args.end or (tool == TRACE and not library):
                return NOT_RUN
            env = {FEW: "1", "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)], **(tracing if tool == TRACE else {})}
            return run(share.key(tool), share.command(tool, args.sanitizer), args.limit, env)

        with ThreadPoolExecutor(args.jobs) as pool:
            running = {
                pool.submit(run_share, number, share, tool): share.key(tool)
                for number, (share, tool) in enumerate(work)
            }
            for future in as_completed(running):
                runs[running[future]] = future.result()
                save(found())
        launched = {line for path in folder.glob("trace.*") for line in path.read_text().split()}
    present = kernels_in([program for program in programs if program.name not in NOT_SANITIZED]) if library else set()
    report = found()
    for name_of_run, result in report["results"].items():
        print(f"{name_of_run}: {result['passed']} of {result['cases']} cases, {result['seconds']} s")
    not_launched = readable(present - launched)
    if "kernels" in earlier:
        not_launched = [name for name in not_launched if name in earlier["kernels"]["not_launched"]]
    report["kernels"] = {
        "in_programs": len(present),
        "launched": len(present) - len(not_launched),
        "not_launched": not_launched,
    }
    return report


def test(programs: list[Path], args: argparse.Namespace, save: Callable[..., None]) -> dict[str, Any]:
    results: dict[str, dict[str, Any]] = {}

    def found() -> dict[str, Any]:
        return {"results": dict(sorted(results.items())), "failed": failed_of(results)}

    with ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(run, program.name, [str(program)], args.limit, {}): program.name for program in programs}
        for future in as_completed(running):
            name = running[future]
            results[name] = {key: value for key, value in future.result().items() if key != "case_seconds"}
            print(f"{name}: {'ok' if results[name]['exit'] == 0 else results[name]}", flush=True)
            save(found())
    return found()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="folder with the cuda_test_* programs")
    parser.add_argument("--sanitize", action="store_true", help="under compute-sanitizer")
    parser.add_argument("--tool", choices=SANITIZERS, action="append", help="this sanitizer alone")
    parser.add_argument("--jobs", type=int, default=1, help="programs at a time")
    parser.add_argument(
        "--continue", dest="proceed", action="store_true", help="with what an earlier run of this commit did not pass"
    )
    parser.add_argument("--sanitizer", help="program; without: of this Python's packages, else the one on the path")
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
    args.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"kind": kind, "commit": args.commit or commit(), "gpu": gpu}

    def save(found: dict[str, Any], complete: bool = False) -> None:
        """What is known so far: whoever stops this has it, too."""
        report.update(
            programs=len(found["results"]), seconds=round(time.monotonic() - begin, 1), complete=complete, **found
        )
        path.write_text(json.dumps(report, indent=2) + "\n")

    if args.sanitize:
        args.sanitizer = args.sanitizer or find_sanitizer()
        report["sanitizer"] = sanitizer_version(args.sanitizer)
        before = json.loads(path.read_text()) if path.is_file() else {}
        for what in ("commit", "sanitizer") if args.proceed else ():
            if before.get(what) != report[what]:
                sys.exit(f"gpu_test: --continue: {path} is of {what} {before.get(what)}, not {report[what]}")
        found = sanitize(programs, args, before, save)
    else:
        found = test(programs, args, save)
    save(found, complete=True)
    results, failed = found["results"], found["failed"]
    good = sum(result["exit"] == 0 for result in results.values())
    print(f"{good} of {len(results)} passed on {gpu['name']} in {report['seconds']} s; written to {path}")
    for name in found.get("kernels", {}).get("not_launched", []):
        print(f"never launched: {name}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
