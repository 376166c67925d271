"""Engines on the tiny models of tests/data, shared by the tests of the package."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import imp

DATA = Path(__file__).parent.parent / "data"

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start too; tests of interrupts would
# wait for it forever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test data."""
    return DATA


@pytest.fixture(scope="session")
def tiny_llama() -> str:
    """A model of 3 layers with a byte-level vocabulary of 288 tokens and a chat template."""
    return str(DATA / "models" / "tiny-llama.gguf")


@pytest.fixture(scope="session")
def shared_engine(tiny_llama: str) -> Iterator[imp.Engine]:
    """One engine for all tests that leave it as it was."""
    with imp.Engine(tiny_llama, device="cpu", num_threads=2) as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: imp.Engine) -> Iterator[imp.Engine]:
    """The shared engine; whatever a test left running is an error."""
    yield shared_engine
    report = shared_engine.report()
    assert report["kv"]["blocks_used"] == 0, "a test left KV blocks in use"
    assert report["scheduler"]["running"] == report["scheduler"]["waiting"] == 0
