"""``imp inspect``: what a model file says of itself."""

from __future__ import annotations

from typing import Any

from .. import _core, models
from .common import format_bytes, format_table, print_json

_LONG = 72  # characters of a value on one line


def inspect(*, model: str, tensors: bool, json_output: bool) -> None:
    file = _core.ModelFile(str(models.resolve(model)))
    rows: list[dict[str, Any]] = [
        {"name": tensor.name, "format": tensor.format, "shape": tensor.shape, "bytes": tensor.num_bytes,
         "shard": tensor.shard, "offset": tensor.file_offset}
        for tensor in file.tensors()
    ]  # fmt: skip
    if json_output:
        print_json(
            {
                "path": file.path,
                "format": file.format_name,
                "file_bytes": file.file_bytes,
                "metadata": {key: file.get(key) for key in file.keys()},  # noqa: SIM118 - not a dict
                "tensors": rows,
            }
        )
        return
    formats: dict[str, int] = {}
    for row in rows:
        formats[row["format"]] = formats.get(row["format"], 0) + 1
    census = ", ".join(f"{count} {name}" for name, count in sorted(formats.items(), key=lambda item: -item[1]))
    print(f"{file.path}: {file.format_name}, {format_bytes(file.file_bytes)}, {len(rows)} tensors ({census})\n")
    print(format_table(["KEY", "VALUE"], [[key, _shorten(file.get(key))] for key in file.keys()]))  # noqa: SIM118
    if tensors:
        print()
        table = [
            [row["name"], row["format"], " x ".join(map(str, row["shape"])), format_bytes(row["bytes"])] for row in rows
        ]
        print(format_table(["TENSOR", "FORMAT", "SHAPE", "SIZE"], table, right={3}))


def _shorten(value: Any) -> str:
    if isinstance(value, list):
        head = ", ".join(repr(item) for item in value[:4])
        return f"[{head}{', ...' if len(value) > 4 else ''}] ({len(value)} values)"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}... ({len(text)} characters)"
