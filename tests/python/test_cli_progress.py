"""What the commands show on a terminal while they work, and what they keep to themselves elsewhere."""

from __future__ import annotations

import io
import sys
import time

import pytest

from imp.cli.common import DownloadBar, Waiting, format_bytes, format_table


class Screen(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def make_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """stderr becomes a terminal. Called by the test itself: pytest puts its own stderr in place after the fixtures."""
    made = Screen()
    monkeypatch.setattr(sys, "stderr", made)
    return made


def test_download_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = make_screen(monkeypatch)
    bar = DownloadBar()
    bar("model 1.0", 0, 4_000_000)
    bar("model 1.0", 1_000_000, 4_000_000)  # too soon after the first to be drawn
    bar("model 1.0", 4_000_000, 4_000_000)
    bar("unknown size", 5_000_000, None)
    first, last, unsized = screen.getvalue().split("\r")[1:]
    assert "[" + " " * 30 + "]     0.0 of 4.0 MB" in first
    assert "[" + "#" * 30 + "]     4.0 of 4.0 MB\n" in last
    assert unsized.endswith("5.0 MB")


def test_download_bar_elsewhere_is_a_line_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    bar = DownloadBar()
    for done in (0, 2_000_000, 4_000_000):
        bar("model 1.0", done, 4_000_000)
    bar("other", 1, None)
    captured = capsys.readouterr()
    assert captured.err == "imp: model 1.0 (4 MB)\nimp: other\n"
    assert captured.out == ""
    quiet = DownloadBar(quiet=True)
    quiet("model 1.0", 0, 4_000_000)
    assert capsys.readouterr().err == ""


def test_waiting_shows_itself_after_a_second_and_wipes_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = make_screen(monkeypatch)
    with Waiting("loading m.gguf"):
        time.sleep(1.3)
    assert screen.getvalue().startswith("\rloading m.gguf ... 1 s")
    assert screen.getvalue().endswith("\r\x1b[K")


def test_waiting_is_silent_when_it_is_short_or_nobody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = make_screen(monkeypatch)
    with Waiting("loading"):
        pass
    assert screen.getvalue() == ""
    monkeypatch.undo()
    with Waiting("loading"):
        time.sleep(1.2)
    assert capsys.readouterr().err == ""


def test_tables_and_sizes() -> None:
    assert format_table(["A", "BB"], [["x", "1"], ["yyy", "22"]], right={1}) == "A    BB\nx     1\nyyy  22"
    assert [format_bytes(count) for count in (0, 1023, 1024, 5 << 20, 3 << 30)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.00 GiB",
    ]  # fmt: skip
