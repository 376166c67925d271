"""Engine: a model on a device. Load, generate, chat, stream, score, explain."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from . import _core
from ._collect import Collector
from ._cublas import prepare_device
from ._explain import Explanation
from ._numbers import INT32_MAX, token_ids, whole_number
from ._progress import progress_bar
from ._steps import StepLoop
from .chat import ChatTemplate, Message, RenderedChat, TemplateRenderer, missing_template
from .config import RuntimeConfig, Value
from .errors import ImpError, InvalidArgumentError, UnsupportedError
from .outputs import Delta, PerplexityResult, RequestOutput
from .sampling import SamplingParams
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Prompt = str | Sequence[int]
Params = SamplingParams | Sequence[SamplingParams] | None
Tools = Sequence[Mapping[str, Any]] | None


class Engine:
    """A model on a device.

    Several threads may use one engine at once: their requests run in the same batches. Ctrl-C during a call cancels
    that call's requests and leaves the engine usable. Close it, or use it as a context manager, to free the memory
    at once.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        config: RuntimeConfig | str | os.PathLike[str] | Mapping[str, Value] | None = None,
        overrides: Mapping[str, Value] | None = None,
        device: str = "auto",
        num_threads: int = 0,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        memory_budget_bytes: int = 0,
        seed: int | None = None,
        log: bool | None = None,
    ) -> None:
        """Loads a model.

        model: a GGUF file, a catalogue name that `imp pull` has fetched, or hf:org/repo[:quant].
        config: a RuntimeConfig, a file, or {"section.key": value}; None reads no file.
        overrides: {"section.key": value} on top of it.
        device: "auto" (says in one line on stderr what it chose), "cpu", "cuda", "cuda:N".
        num_threads: CPU threads; 0 is one for each physical core.
        max_model_len, max_num_seqs: runtime.max_seq_len and runtime.max_batch_size.
        memory_budget_bytes: for weights (and copies of them), KV cache and workspace; 0 is what is free.
        seed: where the seeds of requests without one come from; None is a different one each time.
        log: None says only what device="auto" chose, False not even that. True sets the log level of the process to
            "info", as imp.set_log_level("info") does: every engine's lines go to stderr, also after this one is closed.

        Raises ModelError for a file that is damaged or no model, UnsupportedError for what this build or device cannot
        run, OutOfMemoryError with the budget that would do, CudaError where the device cannot be used or fails, and
        InvalidArgumentError for arguments and settings.
        """
        self._config = _make_config(config, overrides)
        for name, key, value in (
            ("max_model_len", "runtime.max_seq_len", max_model_len),
            ("max_num_seqs", "runtime.max_batch_size", max_num_seqs),
        ):
            if value is not None:
                self._config.set(key, value, origin="api", detail=name)
        if not isinstance(device, str):
            raise InvalidArgumentError(f'device: expected "auto", "cpu", "cuda" or "cuda:N", found {device!r}')
        if log:
            _core.set_log_level("info")
        prepare_device(device)
        core = _core.Engine(
            _model_path(model),
            self._config.core,
            device=device,
            num_threads=whole_number("num_threads", num_threads, -INT32_MAX, INT32_MAX),
            memory_budget_bytes=whole_number("memory_budget_bytes", memory_budget_bytes, 0, 2**63 - 1),
        )
        self._num_threads = num_threads or _core.default_threads()
        self._loop = StepLoop(core)
        self._renderer = TemplateRenderer()
        self._templates: dict[str, ChatTemplate] = {}
        self._seeds = None if seed is None else random.Random(seed)
        if log is None and device == "auto":
            print(f"imp: {core.device_line}", file=sys.stderr)

    # ---- generation

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        *,
        parse_special: bool = False,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Continues each prompt; one output a prompt, in order.

        A prompt is text or token ids. `parse_special` makes control tokens of their text ("<|im_end|>") in text
        prompts. One SamplingParams serves all prompts, or give as many as there are prompts. If a request fails, the
        others are finished first; the exception's `outputs` has them all. A prompt of no tokens, of max_model_len or
        more, or with ids outside the vocabulary is an InvalidArgumentError, and nothing is generated.
        """
        jobs = [self._encode_prompt(prompt, parse_special) for prompt in _as_prompts(prompts)]
        return self._run(jobs, sampling_params, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params = None,
        *,
        tools: Tools = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Answers a conversation, or each of a list of conversations; one output each, in order.

        A message is {"role": "system" | "user" | "assistant" | "tool", "content": text}. They become a prompt by the
        model's chat template, or by `chat_template`: Jinja2 text, or a built-in one of chatml, llama2, llama3, gemma.
        Text of users stays text: it makes no control tokens. Errors are those of generate(), and ChatTemplateError.
        """
        jobs: list[tuple[str | None, list[int]]] = []
        for conversation in _as_conversations(messages):
            rendered, ids = self._encode_chat(
                conversation, tools, chat_template, add_generation_prompt, chat_template_kwargs
            )
            jobs.append((rendered.text, ids))
        return self._run(jobs, sampling_params, use_tqdm)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, parse_special: bool = False
    ) -> Stream:
        """Continues a prompt and gives what each step brought. Leaving the loop early cancels the request."""
        text, ids = self._encode_prompt(prompt, parse_special)
        return Stream(self._loop, self._submit(text, ids, sampling_params or SamplingParams()))

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        tools: Tools = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> Stream:
        """Answers a conversation as a stream."""
        rendered, ids = self._encode_chat(messages, tools, chat_template, add_generation_prompt, chat_template_kwargs)
        return Stream(self._loop, self._submit(rendered.text, ids, sampling_params or SamplingParams()))

    def _run(
        self, jobs: Sequence[tuple[str | None, list[int]]], sampling_params: Params, use_tqdm: bool
    ) -> list[RequestOutput]:
        params = _as_params(sampling_params, len(jobs))
        collectors: list[Collector] = []
        open_requests: dict[int, Collector] = {}
        try:
            for (text, ids), one in zip(jobs, params, strict=True):
                collector = self._submit(text, ids, one)
                collectors.append(collector)
                open_requests[collector.request] = collector
            with progress_bar(len(jobs), shown=use_tqdm) as advance:
                while open_requests:
                    for event in self._loop.next_events(open_requests):
                        collector = open_requests[event.request]
                        collector.add(event)
                        if collector.finished:
                            collector.complete(*self._loop.forget(collector.request))
                            del open_requests[collector.request]
                            advance()
        except BaseException:
            self._loop.abandon(open_requests)
            raise
        outputs = [collector.output for collector in collectors]
        _raise_first_error(collectors, outputs)
        return outputs

    def _submit(self, text: str | None, ids: list[int], params: SamplingParams) -> Collector:
        tokenizer = self.core.tokenizer
        native = params.with_tokenizer(tokenizer).to_core()
        if native.seed is None and self._seeds is not None:
            native.seed = self._seeds.getrandbits(63)
        return Collector(self._loop.submit(ids, native), text, ids, params, tokenizer)

    def _encode_prompt(self, prompt: Prompt, parse_special: bool) -> tuple[str | None, list[int]]:
        if not isinstance(prompt, str):
            return None, token_ids(prompt)
        return prompt, self.tokenize(prompt, parse_special=parse_special)

    # ---- text

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; UnsupportedError where the file has none."""
        core = self.core.tokenizer
        if core is None:
            raise UnsupportedError("the model file has no tokenizer; use token ids instead of text")
        return Tokenizer.from_core(core)

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text; the arguments are Tokenizer.encode()'s."""
        return self.tokenizer.encode(text, add_special, parse_special)

    def detokenize(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(ids, skip_special_tokens)

    @property
    def chat_template(self) -> str | None:
        """The template of the model file, None where it has none."""
        return self.core.chat_template or None

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Message],
        tools: Tools = None,
        *,
        tokenize: Literal[False] = False,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str: ...

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Message],
        tools: Tools = None,
        *,
        tokenize: Literal[True],
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]: ...

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        tools: Tools = None,
        *,
        tokenize: bool = False,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str | list[int]:
        """The prompt of a conversation, as text or as token ids.

        Only the ids keep control tokens in text of users as text; the text alone cannot tell them apart.
        """
        arguments = (messages, tools, chat_template, add_generation_prompt, chat_template_kwargs)
        return self._encode_chat(*arguments)[1] if tokenize else self._render_chat(*arguments)[1].text

    def chat_ids(self, messages: Sequence[Message], **options: Any) -> list[int]:
        """apply_chat_template(..., tokenize=True)."""
        return self.apply_chat_template(messages, tokenize=True, **options)

    def _render_chat(
        self,
        messages: Sequence[Message],
        tools: Tools,
        chat_template: str | None,
        add_generation_prompt: bool,
        kwargs: Mapping[str, Any] | None,
    ) -> tuple[ChatTemplate, RenderedChat]:
        source = chat_template or self.chat_template
        if not source:
            raise missing_template()
        template = self._templates.get(source)
        if template is None:
            template = ChatTemplate(source, self.core.tokenizer, self._renderer)
            if chat_template is None or source == template.name:  # a stream of ad-hoc templates must not pile up
                self._templates[source] = template
        rendered = template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt, kwargs=kwargs)
        return template, rendered

    def _encode_chat(
        self,
        messages: Sequence[Message],
        tools: Tools,
        chat_template: str | None,
        add_generation_prompt: bool,
        kwargs: Mapping[str, Any] | None,
    ) -> tuple[RenderedChat, list[int]]:
        template, rendered = self._render_chat(messages, tools, chat_template, add_generation_prompt, kwargs)
        ids = template.encode(rendered)
        if self._config["diagnostics.debug_template"]:
            origin = "argument" if chat_template else "model file"
            print(
                f"imp: template source={origin} name={template.name} sha256={template.sha256[:16]}\n"
                f"imp: template messages={len(messages)} tools={len(tools or ())} "
                f"add_generation_prompt={str(add_generation_prompt).lower()} kwargs={json.dumps(dict(kwargs or {}))}\n"
                f"imp: template prompt tokens={len(ids)} hidden_control_tokens={len(rendered.replaced)}\n{rendered.text}",
                file=sys.stderr,
            )
        return rendered, ids

    # ---- scores

    def logits(self, ids: Sequence[int], all: bool = False) -> NDArray[np.float32]:  # noqa: A002
        """The model's raw output after the last of `ids` [vocab_size], or after each [len(ids), vocab_size].

        `ids` are one to max_model_len token ids; others are an InvalidArgumentError.
        """
        checked = token_ids(ids)
        with self._loop.exclusive() as core:
            rows = core.logits(checked, all)
        return rows if all else rows[0]

    def perplexity(
        self,
        text: str | Sequence[int],
        context: int = 512,
        progress: Callable[[int, int, float], object] | None = None,
    ) -> PerplexityResult:
        """Perplexity of a text in windows of `context` tokens, the first half of each not scored.

        A window is 4 to max_model_len tokens, and the text at least two windows; others are an InvalidArgumentError.
        `progress` is called with (windows done, windows, value so far).
        """
        whole_number("context", context, -INT32_MAX, INT32_MAX)
        ids = self.tokenize(text) if isinstance(text, str) else token_ids(text)
        with self._loop.exclusive() as core:
            result = core.perplexity(ids, context, progress)
        return PerplexityResult(result.value, result.stderr, result.windows, result.scored_tokens)

    # ---- what it is and does

    @property
    def core(self) -> _core.Engine:
        """The native engine. Its methods are for one thread at a time."""
        return self._loop.core

    @property
    def config(self) -> RuntimeConfig:
        """The settings in effect, with what the engine decided by itself."""
        return RuntimeConfig.from_core(self.core.config)

    @property
    def device(self) -> str:
        """The device it runs on: "cpu" or "cuda"."""
        return self.core.device

    @property
    def device_name(self) -> str:
        """The device as it calls itself: the processor's or the card's name."""
        return str(self.report()["device"]["name"])

    @property
    def device_line(self) -> str:
        """What was chosen and why, in one line."""
        return self.core.device_line

    @property
    def num_threads(self) -> int:
        """CPU threads that compute."""
        return self._num_threads

    @property
    def max_batch_tokens(self) -> int:
        """Tokens that one step computes at most; longer prompts are cut into so many."""
        return int(self.report()["dispatch"]["resolved"]["max_step_tokens"])

    @property
    def model_description(self) -> str:
        """Architecture, size and main weight format."""
        return self.core.model_description

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return self.core.vocab_size

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.core.max_seq_len

    def report(self) -> dict[str, Any]:
        """What the engine has decided, launched, allocated and counted so far."""
        with self._loop.exclusive() as core:
            report: dict[str, Any] = json.loads(core.report_json())
        return report

    def explain(self, batch_sizes: Sequence[int] = (1, 8, 512)) -> Explanation:
        """For each op and batch size, the kernel that runs and why the others do not. Prints as a table."""
        sizes = [whole_number("batch_sizes", size, -INT32_MAX, INT32_MAX) for size in batch_sizes]
        with self._loop.exclusive() as core:
            return Explanation(json.loads(core.explain_json(sizes)))

    # ---- end of life

    def close(self) -> None:
        """Frees the model. Running streams of other threads end with EngineClosedError."""
        self._renderer.close()
        self._loop.close()

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the engine."""
        self.close()

    def __repr__(self) -> str:
        """Model and device."""
        if self._loop.closed:
            return "Engine(closed)"
        return f"Engine({self.model_description!r}, device={self.device!r})"


class Stream(Iterator[Delta]):
    """A running request: iterate over its deltas; close() or leaving the loop cancels it.

    `output` is what was generated so far, complete with metrics at the end.
    """

    def __init__(self, loop: StepLoop, collector: Collector) -> None:
        """`collector` has been submitted to `loop`."""
        self._loop = loop
        self._collector = collector
        self._ready: list[Delta] = []
        self._done = False

    @property
    def output(self) -> RequestOutput:
        """The output so far."""
        return self._collector.output

    def __next__(self) -> Delta:
        """Waits for the next delta."""
        try:
            while not self._ready:
                if self._done:
                    raise StopIteration
                self._advance()
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise
        return self._ready.pop(0)

    def _advance(self) -> None:
        collector = self._collector
        self._ready = [collector.add(event) for event in self._loop.next_events([collector.request])]
        if collector.finished:
            self._done = True
            collector.complete(*self._loop.forget(collector.request))
            _raise_first_error([collector], [collector.output])

    def close(self) -> None:
        """Cancels what still runs."""
        if not self._done:
            self._done = True
            self._loop.abandon([self._collector.request])

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancels what still runs."""
        self.close()

    def __del__(self) -> None:
        """A stream that nobody holds any more is cancelled: that is what `break` in a for loop does."""
        if hasattr(self, "_done"):
            self.close()


def _make_config(
    config: RuntimeConfig | str | os.PathLike[str] | Mapping[str, Value] | None, overrides: Mapping[str, Value] | None
) -> RuntimeConfig:
    match config:
        case RuntimeConfig():
            made = config.copy()
        case None:
            made = RuntimeConfig()
        case Mapping():
            made = RuntimeConfig(overrides=config)
        case _:
            made = RuntimeConfig(config)
    made.update(overrides or {})
    return made


def _model_path(model: str | os.PathLike[str]) -> str:
    """The file of a model; names are looked up, nothing is downloaded."""
    if os.path.exists(model):  # noqa: PTH110
        return os.fspath(model)
    from .models import resolve  # noqa: PLC0415  (network code that most users of a file never need)

    return os.fspath(resolve(model))


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if hasattr(prompts, "tolist"):  # an array of token ids
        prompts = prompts.tolist()
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Sequence):
        raise InvalidArgumentError(
            f"prompts: expected text, token ids, or a list of them, found {type(prompts).__name__}"
        )
    if prompts and all(isinstance(token, int) for token in prompts):
        return [prompts]  # type: ignore[list-item]
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str) and not (
            isinstance(prompt, Sequence) and all(isinstance(token, int) for token in prompt)
        ):
            raise InvalidArgumentError(f"prompts[{index}]: expected text or a list of token ids, found {prompt!r}")
    return list(prompts)  # type: ignore[arg-type]


def _as_conversations(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
    if isinstance(messages, Sequence) and messages and isinstance(messages[0], list | tuple):
        return list(messages)  # type: ignore[arg-type]
    return [messages]  # type: ignore[list-item]


def _as_params(params: Params, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise InvalidArgumentError(
            f"sampling_params: {len(params)} for {count} prompts; give one, or as many as prompts"
        )
    return list(params)


def _raise_first_error(collectors: Sequence[Collector], outputs: list[RequestOutput]) -> None:
    """Raises the error of the first request that failed; its `outputs` are those of all."""
    for index, collector in enumerate(collectors):
        if collector.error is not None:
            error: ImpError = collector.error
            error.outputs = outputs
            if len(collectors) > 1:
                error.add_note(f"in prompt {index} of {len(collectors)}")
            raise error
