"""The stub of the native module, which type checkers read, says what the module has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import imp

STUB = Path(imp.__file__).with_name("_core.pyi")
PATTERNS = Path(__file__).parent.parent.parent / "cpp" / "bindings" / "stub.pattern"


def test_stub_is_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("nanobind", reason="nanobind, which writes the stub, is not installed")
    made = tmp_path / "_core.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "--exclude-values", "-p", str(PATTERNS)]
    subprocess.run([*command, "-m", "imp._core", "-o", str(made)], check=True, timeout=60)
    assert normal(made.read_text(encoding="utf-8")) == normal(STUB.read_text(encoding="utf-8")), (
        "python/imp/_core.pyi is out of date: cmake --build BUILD --target imp_core_stub"
    )


def normal(text: str) -> list[str]:
    """Lines without the differences between versions of the generator: blank lines, imports, comments."""
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not re.match(r"(import|from|#|    #)", line)]


def test_marker_ships() -> None:
    assert STUB.with_name("py.typed").exists()
