"""SamplingParams: how the next token is drawn and when a generation ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from . import _core
from .errors import InvalidArgumentError, UnsupportedError
from .tokenizer import encode_text

_ANY_VOCAB = 2**31 - 1  # checked again against the real vocabulary when a request is submitted


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """Names and meanings follow vLLM; the defaults are neutral.

    One default differs on purpose: `max_tokens=None` generates until the model stops or the context is full.
    A value out of range raises ValueError here, a token id outside the vocabulary when the request is submitted.
    """

    n: int = 1  # sequences for one prompt
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 or -1: all
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    penalty_last_n: int = 64  # tokens that the three penalties look back over; 0: off, -1: the whole sequence
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")
    mirostat: int = 0  # 0: off, 2: mirostat v2
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    logprobs: int | None = None  # also the chosen token's; at most 20
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    thinking_token_budget: int | None = None  # 0: no limit; None: generation.think_budget of the configuration
    _banned_ids: tuple[int, ...] = field(default=(), repr=False)  # bad_words, once a tokenizer has seen them

    def __post_init__(self) -> None:
        """Checks every field that can be checked without a model."""
        if isinstance(self.bad_words, str):
            raise InvalidArgumentError("bad_words: expected a list of strings, found one string")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidArgumentError(
                f"max_tokens: expected at least 1, or None for no limit, found {self.max_tokens}"
            )
        self.to_core().validate(_ANY_VOCAB)

    def clone(self, **changes: object) -> SamplingParams:
        """A copy with some fields changed, validated again."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def with_tokenizer(self, tokenizer: _core.Tokenizer | None) -> SamplingParams:
        """These parameters with `bad_words` resolved to token ids."""
        if not self.bad_words:
            return self
        if tokenizer is None:
            raise UnsupportedError("bad_words: the model has no tokenizer; use logit_bias with token ids")
        banned = {token for word in self.bad_words for token in _single_tokens(word, tokenizer)}
        return replace(self, bad_words=None, _banned_ids=tuple(sorted(banned)))

    def to_core(self) -> _core.SamplingParams:
        """The native struct. Raises ValueError for a value of the wrong type or size."""
        core = _core.SamplingParams()
        for name, value in self._core_values().items():
            try:
                setattr(core, name, value)
            except (TypeError, OverflowError):
                raise InvalidArgumentError(f"{name}: expected {_expected(name)}, found {value!r}") from None
        return core

    def _core_values(self) -> dict[str, object]:
        values: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        del values["bad_words"], values["_banned_ids"], values["thinking_token_budget"]
        values["think_budget"] = self.thinking_token_budget
        values["banned_token_ids"] = list(self._banned_ids)
        values["top_k"] = 0 if self.top_k == -1 else self.top_k
        values["stop"] = [self.stop] if isinstance(self.stop, str) else _as_list("stop", self.stop)
        values["logit_bias"] = _bias(self.logit_bias)
        for name in ("stop_token_ids", "allowed_token_ids", "dry_sequence_breakers"):
            values[name] = _as_list(name, values[name])
        for name in ("max_tokens", "logprobs", "prompt_logprobs", "think_budget"):
            values[name] = -1 if values[name] is None else values[name]
        for name, value in values.items():
            if name in _FLOATS and isinstance(value, int):
                values[name] = float(value)
        return values


_FLOATS = frozenset(f.name for f in fields(SamplingParams) if isinstance(f.default, float))
_FLAGS = frozenset(f.name for f in fields(SamplingParams) if isinstance(f.default, bool))


def _expected(name: str) -> str:
    """What a field holds, for a value that does not fit into it."""
    if name in _FLOATS:
        return "a number"
    if name in _FLAGS:
        return "True or False"
    if name in ("stop_token_ids", "allowed_token_ids"):
        return f"token ids of at most {_ANY_VOCAB - 1}"
    if name in ("stop", "dry_sequence_breakers"):
        return "strings"
    if name == "logit_bias":
        return f"{{token id: number}} with ids of at most {_ANY_VOCAB - 1}"
    return "an integer from 0 to 2**64 - 1, or None" if name == "seed" else f"an integer of at most {2**31 - 1}"


def _as_list(name: str, value: object) -> list[object]:
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        raise InvalidArgumentError(f"{name}: expected a list, found {value!r}")
    return list(value)


def _bias(bias: Mapping[int, float] | Mapping[str, float] | None) -> dict[int, float]:
    try:
        return {int(token): float(value) for token, value in (bias or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidArgumentError(f"logit_bias: expected {{token id: number}}, found {bias!r}") from None


def _single_tokens(word: str, tokenizer: _core.Tokenizer) -> list[int]:
    """The ids of `word` at the start of a text and after a space."""
    if not isinstance(word, str) or not word:
        raise InvalidArgumentError(f"bad_words: expected words, found {word!r}")
    found = [ids[0] for text in (word, " " + word) if len(ids := encode_text(tokenizer, text, False, False)) == 1]
    if not found:
        count = len(encode_text(tokenizer, word, False, False))
        raise UnsupportedError(
            f"bad_words: {word!r} is {count} tokens in this vocabulary; only words of one token can be banned"
        )
    return found
