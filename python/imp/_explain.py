"""What Engine.explain() gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Explanation(dict[str, Any]):
    """The plan as plain data; str() lays it out for reading."""

    def __str__(self) -> str:
        """Model, memory plan, then a line for each op with its kernel and, below it, why the others were refused."""
        return "\n".join(
            [
                f"model   {self['model']}",
                f"device  {self['device']}",
                f"spec    {_spec(self['spec'])}",
                *(f"        {_layers(kind)}" for kind in self["spec"]["layers"]),
                "",
                "memory plan",
                *_indented(self["memory_plan"]["table"].rstrip().splitlines()),
                *_indented(filter(None, [self["memory_plan"]["reduction"]])),
                "",
                "linear",
                *_ops(self["linear"], lambda op: f"{op['role']:<9} {op['format']:<7} {op['n']}x{op['k']}", "m"),
                "",
                "attention",
                *_ops(self["attention"], _attention, "tokens"),
                "",
                "graphs",
                *_indented(_graphs(self["graphs"])),
                *(["", "settings without effect here"] if self["without_effect"] else []),
                *_indented(self["without_effect"]),
            ]
        )


def _spec(spec: Mapping[str, Any]) -> str:
    keys = ("architecture", "name", "num_layers", "hidden_size", "vocab_size", "context_length")
    return "  ".join(f"{key}={spec[key]}" for key in keys)


def _layers(kind: Mapping[str, Any]) -> str:
    rest = "  ".join(f"{key}={value}" for key, value in kind.items() if key not in ("first", "last"))
    return f"layers {kind['first']}-{kind['last']}  {rest}"


def _attention(op: Mapping[str, Any]) -> str:
    window = f" window {op['sliding_window']}" if op["sliding_window"] else ""
    return f"{op['phase']:<9} context {op['context']}{window}"


def _graphs(graphs: Mapping[str, Any]) -> list[str]:
    mode = f"{graphs['mode']}: {graphs['reason']}"
    lines = [mode if graphs["mode"] == "never" else f"{mode}; captured {graphs['capture_mode']}"]
    if graphs["early_launch"]:
        lines.append("a kernel may start while the one before it ends")
    return lines


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line.rstrip()}" for line in lines]


def _ops(ops: Iterable[Mapping[str, Any]], title: Callable[[Mapping[str, Any]], str], count: str) -> list[str]:
    lines = []
    for op in ops:
        lines.append(f"  {title(op):<30} {count}={op[count]:<5} {op['chosen'] or 'NO KERNEL'}")
        reasons: dict[str, list[str]] = {}
        for refused in op["refused"]:
            reasons.setdefault(refused["reason"], []).append(refused["name"])
        lines += [f"      not {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return lines
