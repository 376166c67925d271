"""What a generation gives back. Names follow vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True, frozen=True)
class Logprob:
    """The log-probability of one token under the model's own distribution."""

    logprob: float
    rank: int  # 1: the most likely
    decoded_token: str | None


# The chosen token first, then the best ones.
TokenLogprobs = dict[int, Logprob]


@dataclass(slots=True, frozen=True)
class RequestMetrics:
    """Where the time of a request went, in seconds."""

    queued_s: float  # until its first step
    prefill_s: float  # from there to the first token
    decode_s: float  # from there to the last
    prompt_tokens: int
    generated_tokens: int  # of all its sequences
    num_sequences: int = 1

    @property
    def prompt_tokens_per_s(self) -> float:
        """Speed of the prompt, 0 where it took no time."""
        return self.prompt_tokens / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def generated_tokens_per_s(self) -> float:
        """Speed of the answer behind its first token, which is the prompt's; 0 where it took no time."""
        following = self.generated_tokens - self.num_sequences
        return following / self.decode_s if following > 0 and self.decode_s > 0 else 0.0


@dataclass(slots=True)
class CompletionOutput:
    """One sequence. `logprobs` and `cumulative_logprob` are there when they were asked for."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop string or the stop_token_ids entry; None: the model's own end

    def finished(self) -> bool:
        """Whether the sequence has ended."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """One prompt and its sequences."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finished: bool = False
    metrics: RequestMetrics | None = None


@dataclass(slots=True, frozen=True)
class Delta:
    """What one sequence of a stream gained."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True, frozen=True)
class PerplexityResult:
    """exp of the mean negative log-likelihood over `scored_tokens`, as llama-perplexity measures it."""

    value: float
    stderr: float
    windows: int
    scored_tokens: int

    def __float__(self) -> float:
        """The value itself."""
        return self.value
