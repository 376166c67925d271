"""cuBLASLt, which prompts on a GPU are multiplied by. The engine opens it by name; `pip install nvidia-cublas` puts it into
site-packages, where the system does not look: it is opened from there first, and its name then means that library."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from . import _core

NAMES = (
    "libcublasLt.so.13",
    "libcublasLt.so.12",
    "libcublasLt.so",
    "/usr/local/cuda/lib64/libcublasLt.so.13",
    "/usr/local/cuda/lib64/libcublasLt.so.12",
)  # as the engine looks for them
_IN_PACKAGES = ("cu13/lib/libcublasLt.so.13", "cublas/lib/libcublasLt.so.12")  # of nvidia-cublas and nvidia-cublas-cu12


def load_cublaslt() -> str | None:
    """Opens the library that the engine will use and gives its name or path; None where there is none."""
    for library in (*NAMES, *map(str, _files_of_packages())):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return library
    return None


def prepare_device(device: str) -> None:
    """Makes the library known before an engine is made on a GPU; does nothing where none will be."""
    index = _core.cuda_device_of(device)
    if device != "cpu" and not _core.why_no_cuda(index or 0):
        load_cublaslt()


def _files_of_packages() -> list[Path]:
    found = importlib.util.find_spec("nvidia")  # a namespace that NVIDIA's packages share
    folders = (found.submodule_search_locations or ()) if found else ()
    files = [Path(folder) / name for name in _IN_PACKAGES for folder in folders]
    return [file for file in files if file.exists()]
