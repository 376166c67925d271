"""Which cuBLASLt is taken; the library itself is not needed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import imp
from imp import _cublas


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was tried to open; nothing can be, unless a test says so."""
    tried: list[str] = []

    def refuse(name: str) -> None:
        tried.append(name)
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    return tried


def test_the_systems_library_comes_first(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", opened.append)
    assert _cublas.load_cublaslt() == "libcublasLt.so.13"
    assert opened == ["libcublasLt.so.13"]


@pytest.mark.parametrize("file", ["nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12"])
def test_the_library_of_pip_is_opened_by_its_path(
    file: str, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / file
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert _cublas.load_cublaslt() is None
    assert str(library) in opened

    def open_that_one(name: str) -> None:
        if name != str(library):
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", open_that_one)
    assert _cublas.load_cublaslt() == str(library)


def test_only_an_engine_on_a_gpu_opens_it(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imp._core, "why_no_cuda", lambda device=0: "" if device == 1 else "too old")
    for device in ("cpu", "auto", "cuda", "cuda:2"):
        _cublas.prepare_device(device)
    assert not opened
    _cublas.prepare_device("cuda:1")
    assert opened[: len(_cublas.NAMES)] == list(_cublas.NAMES)
    with pytest.raises(imp.InvalidArgumentError, match="unknown"):
        _cublas.prepare_device("cuda:x")


def test_the_names_are_the_engines() -> None:
    source = Path(__file__).parent.parent.parent / "cuda" / "runtime" / "cublaslt.cpp"
    names = source.read_text(encoding="utf-8").partition("kNames[] = {")[2].partition("}")[0]
    assert [name.strip().strip('"') for name in names.split(",")] == list(_cublas.NAMES)
