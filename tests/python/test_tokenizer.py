"""imp.Tokenizer from Python; what it computes is tested against other tokenizers elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import imp

TOKENIZER = imp.Tokenizer(Path(__file__).parent.parent / "data" / "models" / "tiny-llama.gguf")


@pytest.fixture
def tokenizer() -> imp.Tokenizer:
    return TOKENIZER


def test_special_ids(tokenizer: imp.Tokenizer) -> None:
    assert tokenizer.vocab_size == len(tokenizer) == 288
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2)
    assert tokenizer.add_bos is False
    assert 2 in tokenizer.stop_token_ids
    assert tokenizer.model_name == "gpt2"
    assert tokenizer.pre_name == "gpt-2"
    assert "288" in repr(tokenizer)


def test_control_tokens_only_when_asked(tokenizer: imp.Tokenizer) -> None:
    text = "<|im_start|>hello<|im_end|>"
    parsed = tokenizer.encode(text, parse_special=True)
    plain = tokenizer.encode(text)
    assert parsed[0] == tokenizer.token_to_id("<|im_start|>") == 1
    assert parsed[-1] == 2
    assert not set(plain) & {0, 1, 2}
    assert tokenizer.decode(plain) == tokenizer.decode(parsed) == text
    assert tokenizer.decode(parsed, skip_special_tokens=True) == "hello"
    assert tokenizer.decode(plain, skip_special_tokens=True) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_text_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special=False)) == text


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=50))
def test_bytes_round_trip(data: bytes) -> None:
    ids = TOKENIZER.encode(data, add_special=False)
    assert TOKENIZER.decode_bytes(ids) == data
    assert TOKENIZER.decode(ids) == data.decode("utf-8", "replace")


def test_pieces_join_to_the_text(tokenizer: imp.Tokenizer) -> None:
    ids = tokenizer.encode("hello in the tower: 日本 🙂")
    assert b"".join(tokenizer.piece(token) for token in ids).decode() == "hello in the tower: 日本 🙂"
    assert tokenizer.id_to_token(0) == "<|endoftext|>"
    assert tokenizer.token_to_id("no such token") is None


@pytest.mark.parametrize("token", [-1, 288, 2**31 - 1])
def test_ids_outside_the_vocabulary(tokenizer: imp.Tokenizer, token: int) -> None:
    for call in (
        tokenizer.piece,
        tokenizer.id_to_token,
        lambda t: tokenizer.decode([t]),
        lambda t: tokenizer.decode_bytes([t]),
    ):
        with pytest.raises(ValueError, match=r"token id .* is not in the vocabulary \(0 to 287\)"):
            call(token)


def test_wrong_types(tokenizer: imp.Tokenizer) -> None:
    with pytest.raises(ValueError, match="expected text, found int"):
        tokenizer.encode(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        tokenizer.decode(["a"])  # type: ignore[list-item]
    with pytest.raises(imp.InvalidArgumentError, match="lone surrogate at position 1"):
        tokenizer.encode("a\ud800")


def test_from_many_threads(tokenizer: imp.Tokenizer) -> None:
    texts = [f"hello number {i} " * 50 for i in range(64)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


def test_model_without_tokenizer(data: Path) -> None:
    with pytest.raises(imp.UnsupportedError, match="no tokenizer"):
        imp.Tokenizer(data / "models" / "tiny-qwen2.gguf")
