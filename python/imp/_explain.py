"""What Engine.explain() gives back."""

from __future__ import annotations

from typing import Any


class Explanation(dict[str, Any]):
    """The plan as plain data; str() lays it out for reading."""

    def __str__(self) -> str:
        """Sections with indented `key: value` lines."""
        return "\n".join(_lines(dict(self), 0))


def _lines(value: Any, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(value, dict):
        out = []
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                out += [f"{indent}{key}:", *_lines(item, depth + 1)]
            else:
                out.append(f"{indent}{key}: {_text(item)}")
        return out
    if isinstance(value, list):
        if all(not isinstance(item, dict | list) for item in value):
            return [indent + ", ".join(map(_text, value))]
        out = []
        for item in value:
            lines = _lines(item, depth + 1)
            out += [f"{indent}- {lines[0].strip()}", *lines[1:]] if lines else []
        return out
    return [indent + _text(value)]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return "-"
    return "-" if value is None else str(value)
