"""Renders the templates of tests/data/chat with Hugging Face transformers, for tests/python/test_chat_template.py.

Run it where transformers is installed: python tools/make_chat_goldens.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

FOLDER = Path(__file__).parent.parent / "tests" / "data" / "chat"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"town": "Köln", "n": [1, 2.5, None, True]}},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The <weather> & more: 'today' or \"tomorrow\"",
            "parameters": {"type": "object", "properties": {"town": {"type": "string", "description": "Städte"}}},
        },
    }
]  # fmt: skip
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": 'Say <b>"hi"</b> & äöü 日本語 🙂'}],
    "turns": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": " first \n"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "line\nline"},
    ],
    "thoughts": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "<think>\nwell\n</think>\n\nd"},
    ],
    "calls": [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "content": '{"t": 3}'},
        {"role": "tool", "name": "weather", "content": "cold"},
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "S"}]},
        {"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]},
    ],
    "odd": [
        {"role": "skip", "content": "x"},
        {"role": "user", "name": "Ann", "content": "1\n2"},
        {"role": "assistant", "content": "3"},
        {"role": "end", "content": "y"},
        {"role": "user", "content": "z"},
    ],
}
KWARGS: list[dict[str, Any]] = [{}, {"enable_thinking": False}, {"date_string": "05 May 2025"}]


def main() -> None:
    """Writes goldens.json."""
    cases = []
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for name in CONVERSATIONS:
            for kwargs in KWARGS:
                if any(key not in source for key in kwargs) or ("date_string" in source and not kwargs):
                    continue
                if name == "parts" and "['type']" not in source:
                    continue  # joined to a string before such a template sees it, which transformers does not do
                cases += [
                    render(path.name, source, name, tools, prompt, kwargs)
                    for tools in (None, TOOLS)
                    for prompt in (True, False)
                ]
    document = {"special": SPECIAL, "tools": TOOLS, "conversations": CONVERSATIONS, "cases": cases}
    (FOLDER / "goldens.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases, {sum(case['text'] is None for case in cases)} of them errors")


def render(
    template: str,
    source: str,
    conversation: str,
    tools: list[dict[str, Any]] | None,
    prompt: bool,
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """One case; `text` is None where the template raises."""
    try:
        text = render_jinja_template(
            [CONVERSATIONS[conversation]],
            tools=tools,
            chat_template=source,
            add_generation_prompt=prompt,
            **SPECIAL,
            **kwargs,
        )[0][0]
    except Exception as error:
        print(f"{template} {conversation}: {error}")
        text = None
    return {
        "template": template,
        "conversation": conversation,
        "tools": tools is not None,
        "add_generation_prompt": prompt,
        "kwargs": kwargs,
        "text": text,
    }


if __name__ == "__main__":
    main()
