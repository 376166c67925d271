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
from .._cublas import NAMES, load_cublaslt
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
    devices = _core.cuda_devices()
    usable = [device for device in devices if not device.why_not]
    others = [f"{device.index}: {device.name}: {device.why_not}" for device in devices if device.why_not]
    if not usable:
        reason = "; ".join(others) or _core.why_no_cuda()
        if not Path("/dev/nvidiactl").exists():
            return Finding("ok", "gpu", f"none: {reason}")
        return Finding("note", "gpu", f"an NVIDIA device is present but not used: {reason}")
    text = "; ".join([*map(_device_text, usable), *others])
    first = usable[0]
    text += (
        f"; driver for CUDA {_cuda_version(first.driver_version)}, built with {_cuda_version(first.runtime_version)} "
        f"for {first.architectures}"
    )
    full = [device.index for device in usable if device.free_bytes < 1 << 30]
    if full:
        return Finding("note", "gpu", text, f"device {full[0]} has less than 1 GiB free: nvidia-smi shows who holds it")
    return Finding("ok", "gpu", text)


def _device_text(device: _core.CudaDevice) -> str:
    memory = f"{format_bytes(device.free_bytes)} of {format_bytes(device.total_bytes)} free"
    return f"{device.index}: {device.name}, sm_{device.major}{device.minor}, {memory}"


def _cuda_version(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _check_cublas() -> Finding:
    """Prompts on a GPU are multiplied by a library that is not part of imp."""
    if not any(not device.why_not for device in _core.cuda_devices()):
        return Finding("ok", "cublas", "not needed: no GPU is used")
    if library := load_cublaslt():
        return Finding("ok", "cublas", library)
    advice = "install the CUDA toolkit's library, or: pip install nvidia-cublas"
    return Finding("problem", "cublas", f"none of {', '.join(NAMES)} is found, and none in site-packages", advice)


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
    _check_build, _check_cpu, _check_gpu, _check_cublas, _check_memory, _check_config, _check_cache, _check_models, _check_pip,
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
