"""``imp chat``: a conversation on the terminal."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import ImpError, InvalidArgumentError
from ..sampling import SamplingParams
from . import exit_codes
from .common import open_engine, sampling_params

HELP = """\
  /help           this list
  /clear          forget the conversation
  /system TEXT    set the system message (forgets the conversation)
  /undo           take back the last exchange
  /retry          answer the last message again
  /save FILE      write the conversation as Markdown
  /exit           leave (also Ctrl-D)
  A line that ends in \\ goes on; a line of \"\"\" begins and ends a block of lines.
  Ctrl-C stops an answer; at the prompt it clears the line.
  The lines typed are kept for the arrow keys, the last 1000 of all conversations, in ~/.local/state/imp/chat_history
  ($XDG_STATE_HOME/imp/chat_history where that is set); with --no-history nothing is read or written."""

_MAKE_ROOM = "/clear forgets the conversation, /undo its last exchange"


def chat(
    *,
    model: str,
    system: str | None,
    config: str | None,
    settings: list[str] | None,
    device: str,
    memory_budget: str | None,
    threads: int,
    ctx_size: int | None,
    verbose: bool,
    history: bool,
    **sampling: Any,
) -> None:
    params = sampling_params(**sampling)
    with open_engine(
        model,
        config=config,
        settings=settings,
        device=device,
        memory_budget=memory_budget,
        threads=threads,
        ctx_size=ctx_size,
        verbose=verbose,
    ) as engine:
        if not engine.chat_template:
            raise ValueError(f"{model} has no chat template; `imp run --raw` continues plain text with it")
        converse(engine, params, system, history=history)


def converse(
    engine: Engine,
    params: SamplingParams,
    system: str | None,
    *,
    chat_template: str | None = None,
    history: bool = True,
) -> None:
    """Reads messages from standard input and answers them, until /exit or the end of input.

    chat_template: instead of the model's own. history: keep the lines typed on a terminal in a file.
    """
    interactive = sys.stdin.isatty()
    if interactive:
        _enable_line_editing(history)
        print(f"{engine.model_description}. /help for the commands, Ctrl-D to leave.", file=sys.stderr)
    conversation = Conversation(engine, params, system, chat_template)
    while True:
        try:
            text = read_message("> " if interactive else "")
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        if text is None:
            break
        if text.startswith("/"):
            if not conversation.command(text):
                break
        elif text.strip():
            conversation.say(text)
    if interactive:
        print(file=sys.stderr)


class Conversation:
    """The messages so far and what the commands do to them."""

    def __init__(
        self, engine: Engine, params: SamplingParams, system: str | None, chat_template: str | None = None
    ) -> None:
        self._engine = engine
        self._chat_template = chat_template
        self._params = params
        self._system = system
        self.messages: list[dict[str, str]] = []
        self._start()

    def _start(self) -> None:
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def say(self, text: str) -> None:
        """Adds the user's message and the model's answer; a message that cannot be answered is taken back."""
        self.messages.append({"role": "user", "content": text})
        try:
            answer = self._answer()
        except BrokenPipeError:  # nobody reads the answers any more
            raise
        except (ImpError, OSError, ValueError) as error:
            self.messages.pop()
            print(f"imp: {exit_codes.describe(error)}", file=sys.stderr)
            return
        self.messages.append({"role": "assistant", "content": answer})

    def _answer(self) -> str:
        pieces: list[str] = []
        full = False
        try:
            ids = self._prompt_ids()
            length = len(ids)
            with contextlib.closing(self._engine.stream(ids, self._params)) as stream:
                for delta in stream:
                    pieces.append(delta.text)
                    length += len(delta.token_ids)
                    full = delta.finish_reason == "length" and length >= self._engine.max_model_len
                    sys.stdout.write(delta.text)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            print(" [stopped]", end="", file=sys.stderr)
        except ImpError:
            if pieces:
                print(flush=True)  # the message begins a line of its own
            raise
        sys.stdout.write("\n")
        sys.stdout.flush()
        if full:
            print(f"imp: the context of {self._engine.max_model_len} tokens is full; {_MAKE_ROOM}", file=sys.stderr)
        return "".join(pieces)

    def _prompt_ids(self) -> list[int]:
        ids = self._engine.chat_ids(self.messages, chat_template=self._chat_template)
        limit = self._engine.max_model_len
        if len(ids) >= limit and any(message["role"] == "assistant" for message in self.messages):
            raise InvalidArgumentError(
                f"with this message the conversation has {len(ids)} tokens, but max_seq_len is {limit}; {_MAKE_ROOM}"
            )
        return ids

    def command(self, line: str) -> bool:
        """Runs a /command; False ends the conversation."""
        name, _, argument = line.strip().partition(" ")
        match name:
            case "/exit" | "/quit" | "/bye":
                return False
            case "/clear":
                self._start()
            case "/system":
                self._system = argument.strip() or None
                self._start()
            case "/undo":
                self._drop_last_exchange()
            case "/retry":
                if text := self._drop_last_exchange():
                    self.say(text)
            case "/save":
                self._save(argument.strip())
            case "/help":
                print(HELP, file=sys.stderr)
            case _:
                print(f"imp: no command {name}; /help lists them", file=sys.stderr)
        return True

    def _drop_last_exchange(self) -> str | None:
        while self.messages and self.messages[-1]["role"] != "system":
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        print("imp: nothing to take back", file=sys.stderr)
        return None

    def _save(self, name: str) -> None:
        if not name:
            print("imp: /save needs a file name", file=sys.stderr)
            return
        text = "".join(f"**{message['role']}**\n\n{message['content']}\n\n" for message in self.messages)
        try:
            Path(name).write_text(text, encoding="utf-8")
        except OSError as error:
            print(f"imp: {name}: {error.strerror}", file=sys.stderr)


def read_message(prompt: str) -> str | None:
    """One message: a line, lines joined by a trailing backslash, or a block between two lines of three quotes."""
    try:
        line = input(prompt)
        if line.strip() == '"""':
            block = []
            while (line := input("")).strip() != '"""':
                block.append(line)
            return "\n".join(block)
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(". " if prompt else ""))
        return "\n".join(lines)
    except EOFError:
        return None


def _enable_line_editing(history: bool) -> None:
    """Arrow keys and, if wanted, a history file, where Python was built with readline."""
    try:
        import readline  # noqa: PLC0415
    except ImportError:
        return
    if not history:
        return
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    file = Path(base) / "imp" / "chat_history"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        readline.read_history_file(file)
    readline.set_history_length(1000)

    def save() -> None:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)

    atexit.register(save)
