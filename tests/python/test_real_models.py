"""Real text through real models: what synthetic values cannot show. Skipped where a model or the text is not here."""

from __future__ import annotations

from pathlib import Path

import pytest

import imp
from imp import _core, models

pytestmark = pytest.mark.real_model

# Debian and its children ship the GNU GPL version 3; the figures below are for its first 24 000 bytes.
TEXT = Path("/usr/share/common-licenses/GPL-3")

# Perplexity by llama.cpp (commit 0c1e570, llama-perplexity -c 512, CPU) of the same files and text.
PEER = {"smollm2-135m": 18.4027, "gemma3-270m": 15.2434}


def _text() -> str:
    if not TEXT.is_file():
        pytest.skip(f"{TEXT} is not on this machine")
    return TEXT.read_text(encoding="utf-8")[:24_000]


def _model(name: str) -> str:
    try:
        return str(models.resolve(name))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", sorted(PEER))
def test_perplexity_is_the_peers(name: str) -> None:
    """Within 1 %: the two engines quantise activations alike but round differently."""
    with imp.Engine(_model(name), device="cpu", log=False, max_model_len=1024, max_num_seqs=1) as engine:
        result = engine.perplexity(_text(), context=512)
    assert result.windows == 9
    assert result.value == pytest.approx(PEER[name], rel=0.01)


def test_fast_kernels_score_as_the_reference() -> None:
    """Within 0.5 %, with each instruction set of this machine. One window: the reference is plain loops in double."""
    path, text = _model("smollm2-135m"), _text()
    values = {}
    for isa in ("reference", "avx2", "avx512"):
        try:
            core = _core.Engine(path, _core.Config(), device="cpu", force_isa=isa)
        except imp.UnsupportedError:
            continue  # this machine lacks it
        ids = core.tokenizer.encode(text, True, False)[:512]
        values[isa] = core.perplexity([*ids, *ids], 512).value
    assert "reference" in values
    assert values == {isa: pytest.approx(values["reference"], rel=0.005) for isa in values}


def test_greedy_answer_is_sensible() -> None:
    """Content, not length: degenerate text passes every check of shape.

    With fp32 activations, because this model's first word is a near tie (25.32 to 25.24) that int8 rounding may flip.
    """
    with imp.Engine(_model("smollm2-135m"), overrides={"gemm.no_mmvq": True}, device="cpu", log=False) as engine:
        question = [{"role": "user", "content": "What is the capital of France?"}]
        output = engine.chat(question, imp.SamplingParams(temperature=0, max_tokens=24))[0].outputs[0]
    assert "Paris" in output.text
