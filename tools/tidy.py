"""Checks the rules of docs/architecture.md that a script can prove; reports outliers in size.

    python tools/tidy.py            all facts; exit 1 if one is violated
    python tools/tidy.py --sizes    the longest files and functions, for planning a clean-up

Facts are: include direction, files that no build list or include reaches, generated files out of date, device and
environment access outside its place, tests without a source or a build entry, and marks of unfinished work. Sizes are
reported, never enforced.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Which folders a folder of cpp/ may include, itself aside. The rules of docs/architecture.md say it in words.
ALLOWED = {
    "include": set(),
    "core": set(),
    "config": {"core"},
    "quant": {"core"},
    "formats": {"core", "quant"},
    "text": {"core", "formats", "quant"},
    "kv": {"core"},
    "model": {"core", "quant", "formats"},
    "ops": {"core", "quant", "model"},
    "reference": {"core", "quant", "model", "ops", "sampling"},
    "exec": {"core", "quant", "formats", "model", "ops", "config"},
    "cpu": {"core", "quant", "formats", "model", "ops", "config", "reference", "exec"},
    "sampling": {"core"},
    "sched": {"core", "kv", "sampling"},
    "engine": {
        "core", "config", "quant", "formats", "model", "ops", "exec", "kv", "sched", "sampling", "text",
    },
    "api": {"include", "core", "config", "engine", "sampling", "text", "formats", "model", "quant"},
    "bindings": {"core", "config", "engine", "sampling", "text", "formats", "quant", "exec", "cpu"},
}  # fmt: skip
CUDA_ALLOWED = {"core", "quant", "ops", "model"}  # and exec/backend.h

SOURCE_SUFFIXES = {".cpp", ".h", ".c", ".cu", ".cuh", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def tracked() -> list[Path]:
    """Files git knows or would add, so that a new file is checked before its first commit."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


def sources(files: list[Path], *folders: str) -> Iterator[tuple[Path, str]]:
    for path in files:
        relative = path.relative_to(ROOT)
        if path.suffix in SOURCE_SUFFIXES and relative.parts[0] in folders:
            yield relative, path.read_text(encoding="utf-8")


def check_include_direction(files: list[Path]) -> Iterator[str]:
    for path, text in sources(files, "cpp"):
        folder = path.parts[1]
        for target in INCLUDE.findall(text):
            top = target.split("/")[0]
            if top == "imp":
                top = "include"
            if top == folder or top not in ALLOWED:
                continue
            if top not in ALLOWED[folder]:
                yield f"{path}: includes {target}; cpp/{folder} may include {', '.join(sorted(ALLOWED[folder])) or 'nothing'}"
    for path, text in sources(files, "cuda"):
        for target in INCLUDE.findall(text):
            top = target.split("/")[0]
            if top in ALLOWED and top not in CUDA_ALLOWED and target not in {"exec/backend.h", "config/config.h"}:
                yield f"{path}: includes {target}; cuda/ may include {', '.join(sorted(CUDA_ALLOWED))} and exec/backend.h"


def check_headers_are_plain(files: list[Path]) -> Iterator[str]:
    """Headers of ours include nothing of third parties, so that they can be embedded."""
    third_party = re.compile(r"^\s*#\s*include\s+<(nanobind|doctest|nlohmann|fmt|cutlass|cute)\b", re.M)
    for path, text in sources(files, "cpp", "cuda"):
        if path.suffix == ".h" and "bindings" not in path.parts and third_party.search(text):
            yield f"{path}: a header of ours includes a third-party header"
        if path.suffix == ".h" and path.parts[:2] != ("cpp", "include") and "#pragma once" not in text:
            yield f"{path}: no #pragma once"


def check_no_hidden_input(files: list[Path]) -> Iterator[str]:
    for path, text in sources(files, "cpp", "cuda"):
        if re.search(r"\b(getenv|secure_getenv|setenv)\s*\(", text) and path.parts[:2] != ("cpp", "config"):
            yield f"{path}: reads or writes the environment; only cpp/config may"
    raw_call = re.compile(r"^\s*(cuda|cublas)[A-Z]\w*\(", re.M)
    for path, text in sources(files, "cuda"):
        if match := raw_call.search(text):
            line = text[: match.start()].count("\n") + 1
            yield f"{path}:{line}: a CUDA call whose result nobody looks at; wrap it in check()"


def check_dead_files(files: list[Path]) -> Iterator[str]:
    """A source no CMake list names, and a header nobody includes, are dead."""
    lists = "\n".join(path.read_text() for path in files if path.name == "CMakeLists.txt" or path.suffix == ".cmake")
    included: set[str] = set()
    for path, text in sources(files, "cpp", "cuda", "tests", "bench", "examples"):
        for target in INCLUDE.findall(text):
            included.add(target)
            included.add(str(path.parent / target))
    for path, _ in sources(files, "cpp", "cuda", "bench"):
        name = path.as_posix()
        stem = "/".join(path.with_suffix("").parts[1:])  # imp_bench() takes stems
        if path.suffix in {".cpp", ".cu", ".c"} and path.name not in lists and f"({stem} " not in lists:
            yield f"{name}: in no CMakeLists.txt"
        if path.suffix in {".h", ".cuh", ".inc"} and path.parts[:2] != ("cpp", "include"):
            short = "/".join(path.parts[1:])
            if (
                short not in included
                and name not in included
                and not any(item.endswith(path.name) for item in included)
            ):
                yield f"{name}: included by nobody"


def check_tests_mirror_sources(files: list[Path]) -> Iterator[str]:
    lists = (ROOT / "tests/CMakeLists.txt").read_text()
    for path in files:
        relative = path.relative_to(ROOT)
        if relative.parts[:2] == ("tests", "cpp") and path.suffix == ".cpp" and path.name.startswith("test_"):
            stem = "/".join(relative.with_suffix("").parts[2:])
            if stem not in lists:
                yield f"{relative}: not in tests/CMakeLists.txt, so it never runs"
    for stem in re.findall(r"^\s*imp_test\((\S+)", lists, re.M):
        if not (ROOT / f"tests/cpp/{stem}.cpp").is_file():
            yield f"tests/CMakeLists.txt: names {stem}, but there is no tests/cpp/{stem}.cpp"


def check_words(files: list[Path]) -> Iterator[str]:
    """No unfinished work is left behind a comment."""
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b")
    for path in files:
        if (
            path.suffix not in SOURCE_SUFFIXES | {".py", ".md", ".txt", ".cmake", ".toml", ".sh"}
            or path.name == "tidy.py"
        ):
            continue
        if "data" in path.relative_to(ROOT).parts:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if unfinished.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: unfinished work belongs into an issue"


def check_generated(files: list[Path]) -> Iterator[str]:
    """Generators that know --check say themselves whether what they wrote is up to date."""
    for path in files:
        if path.parent.name == "tools" and path.name.startswith("gen_") and path.suffix == ".py":
            command = [sys.executable, str(path), "--check"]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                yield f"{path.relative_to(ROOT)} --check: {(result.stdout + result.stderr).strip()}"


CHECKS = [
    check_include_direction,
    check_headers_are_plain,
    check_no_hidden_input,
    check_dead_files,
    check_tests_mirror_sources,
    check_words,
    check_generated,
]


def function_sizes(text: str) -> Iterator[tuple[int, int]]:
    """(line, length) of brace blocks that open at namespace level: good to a few lines, enough to find outliers."""
    depth, start = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        code = re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])*\'|//.*', "", line)
        if re.match(r"\s*(namespace\b.*\{|extern \"C\" \{|\}\s*//\s*namespace)", line):
            continue
        if depth == 0 and "{" in code:
            start = number
        depth += code.count("{") - code.count("}")
        if depth <= 0 and start:
            yield start, number - start + 1
            depth, start = 0, 0


def report_sizes(files: list[Path]) -> None:
    rows = [(len(path.read_text(encoding="utf-8").splitlines()), path.relative_to(ROOT)) for path in files
            if path.suffix in SOURCE_SUFFIXES | {".py"}]  # fmt: skip
    print("longest files:")
    for lines, path in sorted(rows, reverse=True)[:12]:
        print(f"  {lines:5} {path}")
    functions = [(length, f"{path}:{line}") for path, text in sources(files, "cpp", "cuda")
                 for line, length in function_sizes(text)]  # fmt: skip
    print("longest top-level blocks:")
    for length, where in sorted(functions, reverse=True)[:12]:
        print(f"  {length:5} {where}")


def main() -> int:
    files = tracked()
    if "--sizes" in sys.argv:
        report_sizes(files)
        return 0
    findings = [finding for check in CHECKS for finding in check(files)]
    for finding in findings:
        print(finding)
    count = sum(1 for _ in sources(files, "cpp", "cuda"))
    print(f"tidy: {len(CHECKS)} checks over {count} source files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
