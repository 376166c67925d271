"""Integers on their way to the native part, which takes 32 or 64 bits and would refuse others without saying which."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex

from .errors import InvalidArgumentError

INT32_MAX = 2**31 - 1


def whole_number(name: str, value: SupportsIndex, lowest: int, highest: int) -> int:
    """`value` as an int; InvalidArgumentError where it is not between `lowest` and `highest`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, found {value!r}") from None
    if not lowest <= number <= highest:
        raise InvalidArgumentError(f"{name}: expected an integer from {lowest} to {highest}, found {number}")
    return number


def token_ids(ids: Iterable[SupportsIndex]) -> list[int]:
    """Token ids as ints. Whether the vocabulary has them is checked where it is known."""
    numbers = [operator.index(token) for token in ids]
    if numbers and not (min(numbers) >= -INT32_MAX and max(numbers) <= INT32_MAX):
        at, bad = next((i, n) for i, n in enumerate(numbers) if abs(n) > INT32_MAX)
        raise InvalidArgumentError(f"token id {bad} at position {at} is in no vocabulary")
    return numbers
