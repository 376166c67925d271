"""``imp doctor``: what this machine has, what imp will use, and what is in the way."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from .. import _core, models
from .._version import __commit__, __version__
from .common import format_bytes, print_json
from .exit_codes import FAILURE


@dataclass(frozen=True)
class Finding:
    """One line of the examination. ``level`` is ok, note (works, but look) or problem (something will fail)."""

    level: str
    what: str
    text: str
    advice: str = ""


def _check_build() -> Finding:
    return Finding("ok", "imp", f"{__version__} ({__commit__}), Python {platform.python_version()} at {sys.executable}")


def _check_cpu() -> Finding:
    isa = _core.cpu_isa()
    text = f"{_core.cpu_name()}, {_core.default_threads()} threads, {isa} kernels"
    if isa == "reference":
        return Finding("note", "cpu", text, "this CPU has neither AVX2 nor AVX-512; imp runs, slowly")
    return Finding("ok", "cpu", text)


def _check_gpu() -> Finding:
    reason = _core.why_no_cuda()
    if not reason:
        return Finding("ok", "gpu", "usable")
    if not Path("/dev/nvidiactl").exists():
        return Finding("ok", "gpu", f"none: {reason}")
    return Finding("note", "gpu", f"an NVIDIA device is present but not used: {reason}")


def _check_memory() -> Finding:
    free = _available_memory()
    text = f"{format_bytes(free)} available"
    if free < 512 << 20:
        return Finding("problem", "memory", text, "less than 512 MiB: close something, or use a smaller model")
    return Finding("ok", "memory", text)


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _check_cache() -> Finding:
    folder = models.cache_dir()
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding("problem", "cache", f"{folder} cannot be written", "set XDG_CACHE_HOME to a folder of yours")
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {format_bytes(free)} free"
    if free < 1 << 30:
        return Finding("note", "cache", text, "less than 1 GiB: larger models will not fit")
    return Finding("ok", "cache", text)


def _check_models() -> Finding:
    found = models.local_models()
    damaged = []
    for model in found:
        try:
            _core.ModelFile(str(model.path))
        except Exception as error:
            damaged.append(f"{model.path}: {error}")
    if damaged:
        return Finding("problem", "models", "; ".join(damaged), "delete the file and fetch it again")
    if not found:
        return Finding("ok", "models", "none here yet; imp pull smollm2-135m fetches a small one")
    return Finding("ok", "models", ", ".join(model.name for model in found))


def _check_config() -> Finding:
    try:
        config = _core.Config.load("")
    except ValueError as error:
        return Finding("problem", "config", str(error), "imp config check FILE says more")
    if config.warnings:
        return Finding("note", "config", f"{config.file}: " + "; ".join(config.warnings))
    return Finding("ok", "config", config.file or "no file; built-in defaults")


def _check_pip() -> Finding:
    if importlib.util.find_spec("pip") is None:
        return Finding(
            "note", "pip", "not in this environment", "catalogue models are located by pip: python -m ensurepip"
        )
    return Finding("ok", "pip", "present (locates catalogue models)")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _check_build, _check_cpu, _check_gpu, _check_memory, _check_config, _check_cache, _check_models, _check_pip,
)  # fmt: skip


def doctor(*, json_output: bool) -> None:
    findings = [check() for check in CHECKS]
    if json_output:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.level:<8} {finding.what:<7} {finding.text}")
            if finding.advice:
                print(f"{'':<16} -> {finding.advice}")
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(FAILURE)
