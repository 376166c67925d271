"""imp chat on a terminal of its own: lines, blocks, commands, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import imp
from imp.cli import chat
from imp.cli.app import run_app


class Terminal:
    """A command on a pseudo terminal."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Starts `imp` with `arguments`."""
        self._fd, child = pty.openpty()
        command = [sys.executable, "-W", "error", "-c", "from imp.cli import main; main()", *arguments]
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True
        )
        os.close(child)
        self.shown = ""

    def send(self, text: str) -> None:
        """Types."""
        os.write(self._fd, text.encode())

    def expect(self, text: str, seconds: float = 60) -> str:
        """Waits for `text`; what was shown up to its end since the last call."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} within {seconds} s in {self.shown!r}"
            try:
                self.shown += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:  # the other side is gone
                pytest.fail(f"the command ended before {text!r}; it showed {self.shown!r}")
        at = self.shown.index(text) + len(text)
        before, self.shown = self.shown[:at], self.shown[at:]
        return before

    def wait(self, seconds: float = 60) -> int:
        """The exit code, after the rest of the output was taken."""
        with contextlib.suppress(OSError):  # the other side is gone
            while select.select([self._fd], [], [], seconds)[0]:
                self.shown += os.read(self._fd, 65536).decode(errors="replace")
        return self.process.wait(seconds)

    def close(self) -> None:
        """Ends it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._fd)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts commands on terminals and ends them with the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("IMP_", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "TERM": "dumb", "INPUTRC": os.devnull}
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(list(arguments), environment))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_session(terminal: Callable[..., Terminal], tiny_llama: str, tmp_path: Path) -> None:
    session = terminal("chat", tiny_llama, "-n", "4", "--temp", "0", "-t", "1")
    session.expect("/help for the commands, Ctrl-D to leave.")
    session.expect("> ")
    session.send("hello\n")
    session.expect("hello\r\n")
    session.expect("\r\n> ")
    session.send("one \\\n")
    session.expect(". ")
    session.send("two\n")
    session.expect("\r\n> ")
    session.send('"""\nfirst line\n\nlast line\n"""\n')
    session.expect("\r\n> ")
    session.send("/nonsense\n")
    session.expect("imp: no command /nonsense; /help lists them")
    session.send("/help\n")
    session.expect("/save FILE")
    session.expect("> ")
    saved = tmp_path / "saved.md"
    session.send(f"/save {saved}\n")
    session.expect("> ")
    text = saved.read_text()
    assert text.count("**user**") == text.count("**assistant**") == 3
    assert "one \ntwo" in text
    assert "first line\n\nlast line" in text
    session.send("\x04")
    assert session.wait() == 0
    assert "Traceback" not in session.shown
    assert "hello" in (tmp_path / ".local" / "state" / "imp" / "chat_history").read_text()


def test_no_history_leaves_no_file(terminal: Callable[..., Terminal], tiny_llama: str, tmp_path: Path) -> None:
    session = terminal("chat", tiny_llama, "-n", "2", "-t", "1", "--no-history")
    session.expect("> ")
    session.send("/help\n")
    session.expect("~/.local/state/imp/chat_history")
    session.expect("> ")
    session.send("/exit\n")
    assert session.wait() == 0
    assert not (tmp_path / ".local").exists()


def test_ctrl_c_stops_an_answer_and_the_session_goes_on(terminal: Callable[..., Terminal], tiny_llama: str) -> None:
    session = terminal(
        "chat", tiny_llama, "--temp", "0", "-t", "1", "--set", "runtime.max_seq_len=3000000", "-n", "2500000",
    )  # fmt: skip
    session.expect("> ")
    session.send("hello\n")
    session.expect("hello\r\n")
    time.sleep(0.3)
    os.kill(session.process.pid, signal.SIGINT)
    session.expect("[stopped]")
    session.expect("> ")
    session.send("/undo\n")
    session.expect("> ")
    session.send("/undo\n")
    session.expect("imp: nothing to take back")
    session.expect("> ")
    session.send("/exit")  # not entered
    session.expect("/exit")
    os.kill(session.process.pid, signal.SIGINT)  # at the prompt it clears the line
    session.expect("> ")
    session.send("/exit\n")
    assert session.wait() == 0


def test_loading_and_ppl_progress_go_to_the_terminal(
    terminal: Callable[..., Terminal], tiny_llama: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello in the tower " * 40)
    session = terminal("ppl", tiny_llama, "-f", str(tmp_path / "text"), "-c", "64", "-t", "1")
    assert session.wait() == 0
    assert "\r[1/" in session.shown
    assert "perplexity" in session.shown


# ---- without a terminal


@pytest.fixture
def conversation(engine: imp.Engine, capsys: pytest.CaptureFixture[str]) -> chat.Conversation:
    """A conversation on the shared engine."""
    return chat.Conversation(engine, imp.SamplingParams(temperature=0, max_tokens=3), "be brief")


def roles(conversation: chat.Conversation) -> list[str]:
    """Who said something, in order."""
    return [message["role"] for message in conversation.messages]


def test_commands_change_the_history(
    conversation: chat.Conversation, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    conversation.say("one")
    conversation.say("two")
    assert roles(conversation) == ["system", "user", "assistant", "user", "assistant"]
    first_answer = conversation.messages[-1]["content"]
    assert conversation.command("/retry")
    assert roles(conversation) == ["system", "user", "assistant", "user", "assistant"]
    assert conversation.messages[-1]["content"] == first_answer
    assert conversation.command("/undo")
    assert roles(conversation) == ["system", "user", "assistant"]
    assert conversation.command("/clear")
    assert roles(conversation) == ["system"]
    assert conversation.command("/system now be long")
    assert conversation.messages == [{"role": "system", "content": "now be long"}]
    assert conversation.command("/system")
    assert conversation.messages == []
    assert conversation.command("/save")
    assert conversation.command(f"/save {tmp_path}/no/such/place")
    assert not conversation.command("/exit")
    errors = capsys.readouterr().err
    assert "/save needs a file name" in errors
    assert "No such file or directory" in errors


def test_a_message_that_does_not_fit_is_taken_back(
    conversation: chat.Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation.say("word " * 500)
    assert roles(conversation) == ["system"]
    assert "max_seq_len is 256" in capsys.readouterr().err
    conversation.say("short")
    assert roles(conversation) == ["system", "user", "assistant"]


def test_a_full_context_advises_to_clear_it(engine: imp.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = chat.Conversation(engine, imp.SamplingParams(temperature=0, ignore_eos=True), None)
    conversation.say("tell me all")
    assert capsys.readouterr().err == f"imp: the context of 256 tokens is full; {chat._MAKE_ROOM}\n"
    conversation.say("and more")
    assert roles(conversation) == ["user", "assistant"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(
        r"imp: with this message the conversation has \d+ tokens, but max_seq_len is 256; /clear forgets .*\n",
        captured.err,
    )


@pytest.mark.parametrize(
    "error",
    [imp.UnsupportedError("it broke"), imp.InternalError("it broke"), imp.OutOfMemoryError("it broke"),
     OSError("it broke"), OSError(12, "it broke")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("place", ["chat_ids", "stream"])
def test_an_error_does_not_end_the_conversation(
    place: str,
    error: Exception,
    conversation: chat.Conversation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(imp.Engine, place, broken)
        conversation.say("hello")
    assert capsys.readouterr() == ("", "imp: it broke\n")
    assert roles(conversation) == ["system"]
    conversation.say("hello")
    assert roles(conversation) == ["system", "user", "assistant"]


def test_an_error_in_an_answer_begins_a_line(
    conversation: chat.Conversation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(*_: object, **__: object) -> Iterator[imp.Delta]:
        yield imp.Delta(0, "half an", [1])
        raise imp.InternalError("it broke")

    monkeypatch.setattr(imp.Engine, "stream", breaks_off)
    conversation.say("hello")
    assert capsys.readouterr() == ("half an\n", "imp: it broke\n")
    assert roles(conversation) == ["system"]


def test_a_closed_pipe_ends_the_conversation(conversation: chat.Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(imp.Engine, "stream", closed)
    with pytest.raises(BrokenPipeError):
        conversation.say("hello")


def test_ctrl_c_while_a_template_is_rendered(
    conversation: chat.Conversation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(imp.Engine, "chat_ids", interrupted)
        conversation.say("hello")
    assert capsys.readouterr().err == " [stopped]"
    assert conversation.command("/retry")
    assert roles(conversation) == ["system", "user", "assistant"]
    assert conversation.messages[-1]["content"]


def test_piped_input_gives_answers_alone_on_stdout(tiny_llama: str) -> None:
    command = [sys.executable, "-c", "from imp.cli import main; main()", "chat", tiny_llama, "-n", "2", "--temp", "0"]
    done = subprocess.run(command, input="hello\n\n/exit\nnever\n", capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert ">" not in done.stderr


def test_a_model_without_a_template_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(imp.Engine, "chat_template", None)
    assert run_app(["chat", tiny_llama, "--device", "cpu"]) == 2
    assert "has no chat template; `imp run --raw`" in capsys.readouterr().err
