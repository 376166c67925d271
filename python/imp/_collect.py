"""Turns the native engine's events into outputs and deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from . import _core
from .errors import ImpError, from_code
from .outputs import (
    CompletionOutput,
    Delta,
    FinishReason,
    Logprob,
    RequestMetrics,
    RequestOutput,
    TokenLogprobs,
)
from .sampling import SamplingParams


class Collector:
    """One request: its output so far."""

    def __init__(
        self,
        request: int,
        prompt: str | None,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        tokenizer: _core.Tokenizer | None,
    ) -> None:
        """`request` is the native engine's id."""
        self.request = request
        self.error: ImpError | None = None
        self._params = params
        self._tokenizer = tokenizer
        outputs = [CompletionOutput(index) for index in range(params.n)]
        if params.logprobs is not None:
            for output in outputs:
                output.logprobs, output.cumulative_logprob = [], 0.0
        self.output = RequestOutput(str(request), prompt, list(prompt_ids), outputs)

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        return all(output.finish_reason is not None for output in self.output.outputs)

    def add(self, event: _core.TokenEvent) -> Delta:
        """Appends an event; returns it as a delta."""
        output = self.output.outputs[event.index]
        token_ids, text = event.tokens, event.text
        output.token_ids += token_ids
        output.text += text
        logprobs = None
        if output.logprobs is not None and output.cumulative_logprob is not None:
            rows = event.logprobs
            logprobs = [self._row(row) for row in rows]
            output.logprobs += logprobs
            output.cumulative_logprob += sum(row[0].logprob for row in rows if row)
        if event.finish:
            output.finish_reason = cast(FinishReason, event.finish)
            output.stop_reason = self._stop_reason(event.stop_reason)
        if event.finish == "error":
            self.error = from_code(event.error_code, event.error_message)
        return Delta(event.index, text, token_ids, logprobs, output.finish_reason, output.stop_reason)

    def complete(self, timings: _core.RequestTimings, prompt_rows: list[list[_core.TokenLogprob]]) -> RequestOutput:
        """The finished output."""
        self.output.finished = True
        self.output.metrics = RequestMetrics(
            queued_s=timings.queued_s,
            prefill_s=timings.prefill_s,
            decode_s=timings.decode_s,
            prompt_tokens=timings.prompt_tokens,
            generated_tokens=timings.generated_tokens,
            num_sequences=self._params.n,
        )
        if self._params.prompt_logprobs is not None:
            self.output.prompt_logprobs = [self._row(row) if row else None for row in prompt_rows]
        return self.output

    def _row(self, row: Sequence[_core.TokenLogprob]) -> TokenLogprobs:
        return {entry.id: Logprob(entry.logprob, entry.rank, self._text_of(entry.id)) for entry in row}

    def _text_of(self, token: int) -> str | None:
        if self._tokenizer is None or token >= self._tokenizer.size:
            return None
        return self._tokenizer.piece(token, True).decode("utf-8", "replace")

    def _stop_reason(self, reason: str) -> int | str | None:
        stop = [self._params.stop] if isinstance(self._params.stop, str) else self._params.stop or ()
        if not reason:
            return None
        return int(reason) if reason.isdecimal() and reason not in stop else reason
