"""``imp config``: show, check, keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..config import RuntimeConfig
from ..config import keys as option_rows
from .common import format_table, make_config, print_json


def show(*, config: str | None, settings: list[str] | None, origin: bool, json_output: bool) -> None:
    runtime = make_config(config, settings)
    for warning in runtime.warnings:
        print(f"imp: {warning}", file=sys.stderr)
    effective = runtime.effective()
    if json_output:
        print_json(
            {
                key: {"value": entry.value, "origin": entry.origin, "detail": entry.detail}
                for key, entry in effective.items()
            }
        )
        return
    section = ""
    for key, entry in effective.items():
        head, _, name = key.partition(".")
        if head != section:
            print(f"{'' if not section else chr(10)}[{head}]")
            section = head
        line = f"{name} = {_literal(entry.value)}"
        print(f"{line:<44} # {entry.origin}{': ' + entry.detail if entry.detail else ''}" if origin else line)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def check(*, file: str, strict: bool) -> None:
    if not Path(file).is_file():
        raise ValueError(f"{file}: {'not a file' if Path(file).exists() else 'no such file'}")
    runtime = RuntimeConfig(file)
    for warning in runtime.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if strict and runtime.warnings:
        raise ValueError(f"{file}: {len(runtime.warnings)} warnings, and --strict makes them errors")
    changed = sum(1 for entry in runtime.effective().values() if entry.origin == "file")
    print(f"{file}: ok, {changed} keys set, {len(runtime.warnings)} warnings")


def keys(*, json_output: bool) -> None:
    rows = option_rows()
    if json_output:
        print_json(rows)
        return
    table = [
        [str(row["name"]), str(row["type"]), _literal(row["default"]), str(row["status"]), str(row["allowed"] or "")]
        for row in rows
    ]
    print(format_table(["KEY", "TYPE", "DEFAULT", "STATUS", "ALLOWED"], table))
    active = sum(1 for row in rows if row["status"] == "active")
    print(f"\n{len(rows)} keys, {active} active; a pending key accepts only its default", file=sys.stderr)
