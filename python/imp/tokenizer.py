"""Tokenizer: text <-> token ids, from a model file, without its weights."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import _core
from ._numbers import token_ids
from .errors import InvalidArgumentError


def encode_text(core: _core.Tokenizer, text: str, add_special: bool, parse_special: bool) -> list[int]:
    """Token ids of a str, which may hold what no text may: halves of surrogate pairs."""
    if not isinstance(text, str):
        raise InvalidArgumentError(f"expected text, found {type(text).__name__}")
    try:
        return core.encode_bytes(text.encode("utf-8"), add_special, parse_special)
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"the text has a lone surrogate at position {error.start}: {error}") from None


class Tokenizer:
    """The vocabulary of a model file. Opening maps the file and reads its header only.

    Every method may be called from any thread.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the tokenizer of `path`; UnsupportedError where the file has none."""
        self._core = _core.Tokenizer.open(os.fspath(path))

    @classmethod
    def from_core(cls, core: _core.Tokenizer) -> Tokenizer:
        """The tokenizer of an engine."""
        tokenizer = cls.__new__(cls)
        tokenizer._core = core
        return tokenizer

    @property
    def core(self) -> _core.Tokenizer:
        """The native tokenizer."""
        return self._core

    def encode(self, text: str | bytes, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`.

        `add_special` adds BOS and EOS as the model's metadata asks. With `parse_special` the text of a control
        token ("<|im_end|>") becomes that token; without, it stays text, which is what text of users needs.
        """
        if isinstance(text, bytes):
            return self._core.encode_bytes(text, add_special, parse_special)
        return encode_text(self._core, text, add_special, parse_special)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self._core.decode(token_ids(ids), not skip_special_tokens)

    def decode_bytes(self, ids: Sequence[int], skip_special_tokens: bool = False) -> bytes:
        """The exact bytes of `ids`."""
        return self._core.decode_bytes(token_ids(ids), not skip_special_tokens)

    def piece(self, token_id: int) -> bytes:
        """The bytes that one token stands for; a control token gives its text."""
        return self._core.piece(token_id, True)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as it is stored in the vocabulary."""
        return self._core.find(token)

    def id_to_token(self, token_id: int) -> str:
        """A token as it is stored in the vocabulary ("Ġthe", "▁the")."""
        return self._core.token_text(token_id)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._core.size

    def __len__(self) -> int:
        """Number of ids."""
        return self._core.size

    @property
    def bos_token_id(self) -> int | None:
        """Id that begins a sequence."""
        return self._core.bos

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a sequence."""
        return self._core.eos

    @property
    def eot_token_id(self) -> int | None:
        """Id that ends a turn."""
        return self._core.eot

    @property
    def unk_token_id(self) -> int | None:
        """Id of unknown text."""
        return self._core.unk

    @property
    def pad_token_id(self) -> int | None:
        """Id of padding."""
        return self._core.pad

    @property
    def add_bos(self) -> bool:
        """Whether encode(add_special=True) begins with BOS."""
        return self._core.add_bos

    @property
    def stop_token_ids(self) -> list[int]:
        """Every id that ends a generation, sorted."""
        return self._core.stop_ids

    @property
    def model_name(self) -> str:
        """Kind of tokenizer: "gpt2", "llama", "t5"."""
        return self._core.model_name

    @property
    def pre_name(self) -> str:
        """Pre-tokenizer, "" where there is none."""
        return self._core.pre_name

    def __repr__(self) -> str:
        """Kind and size."""
        return f"Tokenizer(model={self.model_name!r}, pre={self.pre_name!r}, vocab_size={self.vocab_size})"
