"""Chat templates: messages -> the text and the token ids a model was trained on.

Templates are Jinja2 programs that come with models. They run in a sandbox, in a helper process with limits on time,
memory and output (`_template_worker.py`), which is started at the first use and kept.

Text of users stays text: the text of a control token inside a message ("<|im_end|>") is replaced by a private
character while the template runs and is tokenised as plain text afterwards.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import _core
from .errors import ChatTemplateError, InvalidArgumentError, UnsupportedError
from .tokenizer import encode_text

Message = Mapping[str, Any]

MAX_TEMPLATE_BYTES = 256 << 10
MIN_OUTPUT_BYTES = 1 << 20
MAX_MESSAGES = 4096
RENDER_TIMEOUT_S = 2.0
_START_TIMEOUT_S = 30.0

# Set by imp itself; chat_template_kwargs may not name them.
_RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "tokenize"}
    | {"bos_token", "eos_token", "unk_token", "pad_token"}
)

BUILTIN_TEMPLATES: dict[str, str] = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama2": (
        "{% set ns = namespace(system='') %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        "{% set ns.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' %}"
        "{% elif message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + ns.system + message['content'] + ' [/INST]' }}{% set ns.system = '' %}"
        "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% set ns = namespace(system='') %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\\n\\n' %}"
        "{% else %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
        "{{ ns.system + message['content'] | trim + '<end_of_turn>\\n' }}{% set ns.system = '' %}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "none": "{% for message in messages %}{{ message['content'] }}{{ '' if loop.last else '\\n' }}{% endfor %}",
}


@dataclass(slots=True, frozen=True)
class RenderedChat:
    """A rendered conversation. `masked` has a private character for each control token in text of users."""

    text: str
    masked: str
    replaced: dict[str, str]  # private character -> the text it stands for


class TemplateRenderer:
    """Renders templates in a helper process. Safe to use from several threads; close() ends the process."""

    def __init__(self, timeout_s: float = RENDER_TIMEOUT_S) -> None:
        """Starts nothing yet."""
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[[subprocess.Popen[bytes]], TemplateRenderer] | None = None

    def render(self, template: str, variables: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
        """The text of `template`. ChatTemplateError for whatever goes wrong in it."""
        size = len(template.encode("utf-8", "surrogatepass"))
        if size > MAX_TEMPLATE_BYTES:
            raise ChatTemplateError(f"chat template: {size} bytes, and at most {MAX_TEMPLATE_BYTES} are allowed")
        request = {"template": template, "variables": variables, "kwargs": kwargs, "timeout_s": self._timeout_s}
        try:
            input_bytes = len(json.dumps([variables, kwargs]))
            body = json.dumps({**request, "max_output_bytes": max(MIN_OUTPUT_BYTES, input_bytes)}).encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"messages, tools and template arguments must be JSON values: {error}") from None
        with self._lock:
            reply = self._ask(body)
        if "text" in reply:
            return str(reply["text"])
        raise ChatTemplateError(_explain(reply))

    def close(self) -> None:
        """Ends the helper process. A later render() starts another."""
        with self._lock:
            self._stop()

    def _ask(self, body: bytes) -> dict[str, Any]:
        try:
            process = self._process or self._start()
            reply = _exchange(process, len(body).to_bytes(4, "big") + body, self._timeout_s)
        except TimeoutError:
            self._stop()
            raise ChatTemplateError(f"chat template: not rendered after {self._timeout_s:g} s") from None
        except (OSError, EOFError):
            self._stop()
            raise ChatTemplateError("chat template: the process that renders it ended (memory or time limit)") from None
        except BaseException:  # Ctrl-C: a reply that is still to come must not answer the next request
            self._stop()
            raise
        if reply.get("error") == "memory":
            self._stop()
        return reply

    def _start(self) -> subprocess.Popen[bytes]:
        if not sys.executable:
            raise UnsupportedError("chat templates: sys.executable is not set, so no helper process can be started")
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("_template_worker.py")), *_jinja_paths()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={name: os.environ[name] for name in ("TZ", "LD_LIBRARY_PATH") if name in os.environ},
        )
        self._process = process
        self._finalizer = weakref.finalize(self, _end_process, process)
        _exchange(process, b"", _START_TIMEOUT_S)
        return process

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()


def _jinja_paths() -> list[str]:
    """The folders that Jinja2 and what it needs are in."""
    folders = []
    for name in ("jinja2", "markupsafe"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise UnsupportedError(f"chat templates need the package {name}: pip install {name}")
        folders.append(str(Path(spec.origin).parent.parent))
    return sorted(set(folders))


def _exchange(process: subprocess.Popen[bytes], message: bytes, timeout_s: float) -> dict[str, Any]:
    """Writes `message` and reads one reply, within the time. Reading goes on while writing, so neither side blocks."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_s
    unsent = memoryview(message)
    received = bytearray()
    expected = 4
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if unsent:
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while len(received) < expected:
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events:
                raise TimeoutError
            for key, _ in events:
                if key.fileobj is process.stdin:
                    unsent = unsent[os.write(key.fd, unsent[: 1 << 16]) :]
                    if not unsent:
                        selector.unregister(process.stdin)
                    continue
                chunk = os.read(key.fd, 1 << 20)
                if not chunk:
                    raise EOFError
                received += chunk
                if len(received) >= 4:
                    expected = 4 + int.from_bytes(received[:4], "big")
    reply: dict[str, Any] = json.loads(received[4:expected])
    return reply


def _explain(reply: Mapping[str, Any]) -> str:
    match reply["error"]:
        case "kwargs":
            readable = ", ".join(sorted(set(reply["readable"]) - _RESERVED)) or "none"
            unknown = ", ".join(reply["unknown"])
            return f"chat_template_kwargs: the template does not read {unknown}; names it reads: {readable}"
        case "syntax":
            return f"chat template: {reply['message']}"
        case "memory":
            return "chat template: it needs more memory than it may have (512 MiB)"
        case "output":
            return f"chat template: its output is too long ({reply['message']})"
        case "security":
            return f"chat template: it tried what the sandbox forbids: {reply['message']}"
        case "recursion":
            return "chat template: it is nested too deeply"
        case _:
            return f"chat template: it refused the conversation: {reply['message']}"


class ChatTemplate:
    """A template with the special tokens of a vocabulary.

    `source` is Jinja2 text or the name of a built-in template: chatml, llama2, llama3, gemma, none.
    """

    def __init__(self, source: str, tokenizer: _core.Tokenizer | None, renderer: TemplateRenderer) -> None:
        """Takes the template as it is; it is compiled at the first render()."""
        self.name, self.source = _named(source)
        self._tokenizer = tokenizer
        self._renderer = renderer
        control = [] if tokenizer is None else [tokenizer.token_text(i) for i in tokenizer.ids_of_type("control")]
        self._control = sorted({text for text in control if text}, key=lambda text: (-len(text), text))
        self._control_pattern = re.compile("|".join(map(re.escape, self._control))) if self._control else None

    @property
    def sha256(self) -> str:
        """Hash of the template's text, to tell templates apart."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        kwargs: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        """Renders a conversation."""
        for name in kwargs or {}:
            if name in _RESERVED:
                raise InvalidArgumentError(f"chat_template_kwargs: {name} is set by imp and cannot be given here")
        checked = _check_messages(messages, self._wants_parts())
        mask = _Mask(self._control_pattern, (self.source, checked, tools, documents, kwargs))
        variables: dict[str, Any] = {
            **self._special_tokens(),
            "messages": mask.hide(checked),
            "tools": mask.hide(_check_dicts("tools", tools)),
            "documents": mask.hide(_check_dicts("documents", documents)),
            "add_generation_prompt": bool(add_generation_prompt),
        }
        masked = self._renderer.render(self.source, variables, mask.hide(dict(kwargs or {})))
        return RenderedChat(mask.restore(masked), masked, mask.replaced)

    def encode(self, rendered: RenderedChat) -> list[int]:
        """Token ids: control tokens of the template are tokens, those in text of users are text.

        BOS is added once, where the vocabulary asks for it and the template did not write it.
        """
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise UnsupportedError("the model has no tokenizer; give token ids instead of messages")
        ids: list[int] = []
        for text, parse_special in self._pieces(rendered):
            ids += encode_text(tokenizer, text, False, parse_special)
        if tokenizer.add_bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
            ids.insert(0, tokenizer.bos)
        return ids

    def _pieces(self, rendered: RenderedChat) -> Iterable[tuple[str, bool]]:
        """The text cut so that a stretch between two control tokens that holds hidden text is encoded as plain text.

        Control tokens separate the text around them anyway, so the cuts change no other token.
        """
        if not rendered.replaced or self._control_pattern is None:
            yield rendered.masked, True
            return
        hidden = re.compile("[" + "".join(rendered.replaced) + "]")
        plain_until = 0  # start of what was not yielded yet
        position = 0
        for match in [*self._control_pattern.finditer(rendered.masked), None]:
            end = match.start() if match else len(rendered.masked)
            if hidden.search(rendered.masked, position, end):
                if position > plain_until:
                    yield rendered.masked[plain_until:position], True
                yield hidden.sub(lambda m: rendered.replaced[m[0]], rendered.masked[position:end]), False
                plain_until = end
            position = match.end() if match else end
        if plain_until < len(rendered.masked):
            yield rendered.masked[plain_until:], True

    def _special_tokens(self) -> dict[str, str]:
        tokenizer = self._tokenizer
        if tokenizer is None:
            return {}
        ids = {"bos": tokenizer.bos, "eos": tokenizer.eos, "unk": tokenizer.unk, "pad": tokenizer.pad}
        return {f"{name}_token": tokenizer.token_text(i) for name, i in ids.items() if i is not None}

    def _wants_parts(self) -> bool:
        """Whether the template looks at content given as a list of parts."""
        return re.search(r"""\[\s*['"](type|text)['"]\s*\]|\.type\b|\.text\b""", self.source) is not None


def _named(source: str) -> tuple[str, str]:
    if source in BUILTIN_TEMPLATES:
        return source, BUILTIN_TEMPLATES[source]
    if "{{" in source or "{%" in source:
        return "custom", source
    known = ", ".join(BUILTIN_TEMPLATES)
    raise ChatTemplateError(f"chat template {source!r}: neither Jinja2 text nor a built-in template ({known})")


def missing_template() -> ChatTemplateError:
    """The error for a model file without a template."""
    known = ", ".join(BUILTIN_TEMPLATES)
    return ChatTemplateError(
        "the model file has no chat template; pass chat_template= with Jinja2 text or one of the built-in "
        f"templates ({known}), or continue plain text with generate()"
    )


def _check_messages(messages: Sequence[Message], keep_parts: bool) -> list[dict[str, Any]]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InvalidArgumentError('messages: expected a list of {"role": ..., "content": ...}')
    if len(messages) > MAX_MESSAGES:
        raise InvalidArgumentError(f"messages: {len(messages)} messages, and at most {MAX_MESSAGES} are allowed")
    checked = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidArgumentError(
                f'messages[{index}]: expected {{"role": ..., "content": ...}}, found {message!r}'
            )
        content = message.get("content")
        if isinstance(content, list | tuple):
            content = _check_parts(index, content, keep_parts)
        elif content is not None and not isinstance(content, str):
            raise InvalidArgumentError(f"messages[{index}]: content must be a string or a list of parts")
        checked.append({**_reasoning(message), **message, **({"content": content} if "content" in message else {})})
    return checked


def _reasoning(message: Message) -> dict[str, Any]:
    """The message's reasoning under each of the names that templates read it by."""
    names = ("reasoning_content", "thinking", "reasoning")
    text = next((message[name] for name in names if message.get(name) is not None), None)
    return {} if text is None else dict.fromkeys(names[:2], text)


def _check_parts(index: int, parts: Sequence[Any], keep: bool) -> str | list[dict[str, Any]]:
    texts = []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str) or (isinstance(part, Mapping) and part.get("type", "text") != "text"):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise UnsupportedError(f"messages[{index}]: content part of type {kind!r}; only text parts are supported")
        texts.append(text)
    return [{"type": "text", "text": text} for text in texts] if keep else "".join(texts)


def _check_dicts(what: str, items: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    if items is None:
        return None
    if isinstance(items, str | Mapping) or not all(isinstance(item, Mapping) for item in items):
        raise InvalidArgumentError(f"{what}: expected a list of JSON objects")
    return [dict(item) for item in items] or None


_T = TypeVar("_T")


class _Mask:
    """Private characters in place of control tokens inside the values a template is given."""

    _PLANES = range(0xF0000, 0x110000, 0x1000)

    def __init__(self, pattern: re.Pattern[str] | None, values: Any) -> None:
        """`values` is everything whose characters the private ones must differ from."""
        self.replaced: dict[str, str] = {}
        self._pattern = pattern
        self._private: dict[str, str] = {}
        found: set[str] = set()
        used: set[str] = set()
        if pattern is None:
            return
        for text in _strings(values):
            found.update(pattern.findall(text))
            used.update(c for c in text if c >= "\U000f0000")
        found_list = sorted(found)
        free = (chr(c) for plane in self._PLANES for c in range(plane, plane + 0xFFE) if chr(c) not in used)
        self._private = dict(zip(found_list, free, strict=False))
        if len(self._private) < len(found_list):
            raise InvalidArgumentError(
                "messages: the text uses every private Unicode character, none is left to mark it"
            )

    def hide(self, value: _T) -> _T:
        """A copy of a JSON value with control tokens in its strings (keys excepted) replaced."""
        return value if not self._private else _map_strings(value, self._hide_text)

    def restore(self, text: str) -> str:
        """The text with the control tokens back in their places."""
        for private, original in self.replaced.items():
            text = text.replace(private, original)
        return text

    def _hide_text(self, text: str) -> str:
        assert self._pattern is not None
        return self._pattern.sub(self._private_of, text)

    def _private_of(self, match: re.Match[str]) -> str:
        private = self._private[match[0]]
        self.replaced[private] = match[0]
        return private


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value
