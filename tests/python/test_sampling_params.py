"""SamplingParams: names, defaults, validation, and what reaches the native struct."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

import imp
from imp import _core
from imp.sampling import SamplingParams


def test_defaults_are_neutral_and_unlimited() -> None:
    params = SamplingParams()
    core = params.to_core()
    fresh = _core.SamplingParams()
    for name in dir(fresh):
        if not name.startswith("_") and name != "validate":
            assert getattr(core, name) == getattr(fresh, name), name
    assert params.max_tokens is None
    assert core.max_tokens == -1


def test_every_field_reaches_the_native_struct() -> None:
    values: dict[str, Any] = {
        "n": 2, "temperature": 0.5, "top_p": 0.75, "top_k": 7, "min_p": 0.125, "typical_p": 0.5,
        "presence_penalty": 0.25, "frequency_penalty": -0.5, "repetition_penalty": 1.25, "penalty_last_n": 5,
        "dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 9,
        "dry_sequence_breakers": ["!"], "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.25, "seed": 2**64 - 1,
        "stop": ["a", "b"], "stop_token_ids": [3], "ignore_eos": True, "max_tokens": 9, "min_tokens": 2, "logprobs": 3,
        "prompt_logprobs": 4, "logit_bias": {5: 1.5}, "allowed_token_ids": [1, 2],
        "include_stop_str_in_output": True, "skip_special_tokens": False,
    }  # fmt: skip
    core = SamplingParams(**values, thinking_token_budget=6).to_core()
    for name, value in values.items():
        assert getattr(core, name) == value, name
    assert core.think_budget == 6


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", 10**11, "an integer of at most 2147483647"),
        ("top_k", 1.5, "an integer of at most 2147483647"),
        ("temperature", "warm", "a number"),
        ("ignore_eos", "yes", "True or False"),
        ("seed", -1, "an integer from 0 to 2**64 - 1, or None"),
        ("stop", [3], "strings"),
        ("stop_token_ids", [10**12], "token ids of at most 2147483646"),
        ("logit_bias", {10**12: 1.0}, "{token id: number} with ids of at most 2147483646"),
    ],
)
def test_a_value_that_does_not_fit_is_told_what_would(name: str, value: Any, expected: str) -> None:
    with pytest.raises(imp.InvalidArgumentError, match=f"^{name}: expected {re.escape(expected)}, found "):
        SamplingParams(**{name: value})


def test_vllm_spellings() -> None:
    core = SamplingParams(top_k=-1, stop="x", logit_bias={"5": -1}, temperature=1).to_core()
    assert core.top_k == 0
    assert core.stop == ["x"]
    assert core.logit_bias == {5: -1.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "warm"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("top_k", 2**40),
        ("top_k", 1.5),
        ("min_p", 1),
        ("typical_p", 0),
        ("repetition_penalty", 0),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("penalty_last_n", -2),
        ("dry_base", 0.5),
        ("dry_multiplier", -1),
        ("mirostat", 1),
        ("mirostat_tau", 0),
        ("seed", -1),
        ("n", 0),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("min_tokens", -1),
        ("logprobs", 21),
        ("prompt_logprobs", 21),
        ("stop", 5),
        ("stop", [5]),
        ("stop", [""]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", "12"),
        ("allowed_token_ids", ["x"]),
        ("logit_bias", [1]),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {1: math.nan}),
        ("bad_words", "word"),
    ],
)
def test_bad_values_name_the_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_unknown_field() -> None:
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=3)  # type: ignore[call-arg]


def test_clone_validates() -> None:
    params = SamplingParams(temperature=0.5, stop=["a"])
    assert params.clone(temperature=0.25) == SamplingParams(temperature=0.25, stop=["a"])
    with pytest.raises(ValueError, match="temperature"):
        params.clone(temperature=-1)


def test_ids_outside_the_vocabulary_are_refused_at_submission(engine: imp.Engine) -> None:
    for field in ("stop_token_ids", "allowed_token_ids"):
        params = SamplingParams(**{field: [engine.vocab_size]})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=field):
            engine.generate("a", params)
    with pytest.raises(ValueError, match="logit_bias"):
        engine.generate("a", SamplingParams(logit_bias={engine.vocab_size: 1.0}))


def test_bad_words(engine: imp.Engine) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    first = engine.generate("hello", greedy)[0].outputs[0]
    banned = next(
        word for token in first.token_ids if len(word := engine.tokenizer.piece(token)) == 1 and word < b"\x7f"
    )
    word = banned.decode()
    other = engine.generate("hello", greedy.clone(bad_words=[word]))[0].outputs[0]
    assert engine.tokenizer.encode(word, add_special=False)[0] not in other.token_ids
    assert other.token_ids != first.token_ids
    with pytest.raises(imp.UnsupportedError, match=r"'xyz' is 3 tokens"):
        engine.generate("a", SamplingParams(bad_words=["xyz"]))


def test_thinking_budget(engine: imp.Engine) -> None:
    assert SamplingParams(thinking_token_budget=0).to_core().think_budget == 0
    with pytest.raises(ValueError, match="think_budget"):
        engine.generate("a", SamplingParams(thinking_token_budget=4))  # this vocabulary has no think markers
    with pytest.raises(ValueError, match="think_budget"):
        SamplingParams(thinking_token_budget=-2)
