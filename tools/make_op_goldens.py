"""Writes tests/data/ops/*.txt: inputs and results of every op, computed with NumPy in float64.

The C++ reference ops are checked against these files (tests/cpp/reference/test_reference.cpp). The formulas are
written here a second time, from their definitions and over whole arrays, so that both would have to be wrong alike.
Needs NumPy only; run it again when an op changes its meaning.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
rng = np.random.default_rng(20260101)


def rounded(values: Array, dtype: type[np.floating[Any]] = np.float32) -> Array:
    """The values as `dtype` can hold them, in float64."""
    return np.asarray(values).astype(dtype).astype(np.float64)


def activations(*shape: int) -> Array:
    """Normal values with a few channels much larger, as real models have them; exact in fp32."""
    gains = np.ones(shape[-1])
    gains[rng.integers(0, shape[-1], size=max(1, shape[-1] // 32))] = 40.0
    return rounded(rng.standard_normal(shape) * gains)


def halves(*shape: int, sigma: float = 1.0) -> Array:
    return rounded(rng.standard_normal(shape) * sigma, np.float16)


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    normed: Array = weight * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return normed


def rotate(x: Array, positions: Array, inv_freq: Array, magnitude: float, interleaved: bool) -> Array:
    """x: [tokens, heads, head_dim]; multiplies the complex numbers x1 + i x2 by magnitude * exp(i angle)."""
    pairs = len(inv_freq)
    angles = (positions[:, None].astype(np.float32) * inv_freq.astype(np.float32)).astype(np.float64)
    turn = magnitude * np.exp(1j * angles)[:, None, :]
    out = x.copy()
    first = slice(0, 2 * pairs, 2) if interleaved else slice(0, pairs)
    second = slice(1, 2 * pairs, 2) if interleaved else slice(pairs, 2 * pairs)
    z = (x[..., first] + 1j * x[..., second]) * turn
    out[..., first], out[..., second] = z.real, z.imag
    return out


def attention(q: Array, k: Array, v: Array, scale: float, softcap: float, window: int) -> Array:
    """q: [tokens, heads, hd] of the last positions; k, v: [context, kv_heads, hd]."""
    tokens, heads, _ = q.shape
    context, kv_heads, _ = k.shape
    k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
    scores = np.einsum("thd,jhd->htj", q, k) * scale
    if softcap > 0:
        scores = softcap * np.tanh(scores / softcap)
    i = np.arange(context - tokens, context)[:, None]
    j = np.arange(context)[None, :]
    visible = (j <= i) & ((j > i - window) if window > 0 else True)
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out: Array = np.einsum("htj,jhd->thd", weights, v)
    return out


class Golden:
    """A file of named arrays: `name count` on a line, the values on the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []

    def add(self, name: str, values: Array | float | int) -> None:
        flat = np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()
        self.lines.append(f"{name} {flat.size}")
        self.lines.append(" ".join(f"{np.float32(x):.9g}" for x in flat))

    def write(self) -> None:
        self.path.write_text("\n".join(self.lines) + "\n")


def make_rms_norm(golden: Golden) -> None:
    x, weight = activations(3, 33), activations(33)
    golden.add("x", x)
    golden.add("weight", weight)
    golden.add("epsilon", 1e-5)
    golden.add("y", rms_norm(x, weight, float(np.float32(1e-5))))


def make_softcap(golden: Golden) -> None:
    x = activations(2, 31)
    golden.add("x", x)
    golden.add("cap", 30.0)
    golden.add("y", 30.0 * np.tanh(x / 30.0))


def make_linear(golden: Golden) -> None:
    """x [4, 64]; three outputs of 5, 3 and 5 features; bias on the first."""
    x, norm = activations(4, 64), activations(64)
    w0, w1, w2 = (rounded(rng.standard_normal((n, 64)) * 0.1) for n in (5, 3, 5))
    bias = activations(5)
    epsilon = float(np.float32(1e-6))
    h = rms_norm(x, norm, epsilon)
    for name, value in (
        ("x", x),
        ("norm", norm),
        ("epsilon", epsilon),
        ("w0", w0),
        ("w1", w1),
        ("w2", w2),
        ("bias", bias),
    ):
        golden.add(name, value)
    golden.add("plain0", x @ w0.T + bias)
    golden.add("plain1", x @ w1.T)
    golden.add("normed0", h @ w0.T + bias)
    golden.add("accumulated0", 1.5 + x @ w0.T + bias)
    golden.add("rows0", h[[3, 0]] @ w0.T + bias)
    gate, up = h @ w0.T + bias, h @ w2.T
    golden.add("silu", gate / (1 + np.exp(-gate)) * up)
    cubic = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    golden.add("gelu", 0.5 * gate * (1 + np.tanh(cubic)) * up)
    highest = np.abs(x.reshape(4, 2, 32)).max(axis=-1)
    threshold = float(np.float32(np.median(highest)))  # half of the blocks are quieter
    quiet = highest < threshold
    golden.add("threshold", threshold)
    golden.add("num_quiet", float(quiet.sum()))
    golden.add("skipped1", np.where(np.repeat(quiet, 32, axis=1), 0, x) @ w1.T)


def make_qk_rope_kv(golden: Golden) -> None:
    """Two heads of q, one of k and v, head_dim 16, at positions around 0, a block's border and far out."""
    positions = np.array([0, 1, 15, 16, 17, 4095])
    q, k, v = activations(6, 2, 16), activations(6, 1, 16), activations(6, 1, 16)
    q_norm, k_norm = activations(16), activations(16)
    golden.add("positions", positions.astype(np.float64))
    for name, value in (("q", q), ("k", k), ("v", v), ("q_norm", q_norm), ("k_norm", k_norm)):
        golden.add(name, value)
    golden.add("cache_v", rounded(v, np.float16))
    for rotary_dim in (16, 6):
        inv_freq = rounded(10000.0 ** (-np.arange(0, rotary_dim, 2) / rotary_dim))
        golden.add(f"inv_freq_{rotary_dim}", inv_freq)
        for interleaved in (False, True):
            for normed in (False, True):
                a = rms_norm(q, q_norm, float(np.float32(1e-6))) if normed else q
                b = rms_norm(k, k_norm, float(np.float32(1e-6))) if normed else k
                case = f"{rotary_dim}_{int(interleaved)}_{int(normed)}"
                golden.add(f"out_q_{case}", rotate(a, positions, inv_freq, 1.25, interleaved))
                golden.add(f"cache_k_{case}", rotate(b, positions, inv_freq, 1.25, interleaved))


def make_attention(golden: Golden) -> None:
    """Context 37, the last 5 tokens are new; 6 query heads, 2 kv heads, head_dim 16."""
    q = rounded(rng.standard_normal((5, 6, 16)) * 3)
    k, v = halves(37, 2, 16, sigma=2.0), halves(37, 2, 16)
    k[:, :, 3] *= 16.0
    golden.add("q", q)
    golden.add("k", k)
    golden.add("v", v)
    for softcap, window in ((0.0, 0), (20.0, 0), (0.0, 1), (0.0, 9), (5.0, 36)):
        golden.add(f"out_{softcap:g}_{window}", attention(q, k, v, 0.25, softcap, window))


def main() -> None:
    folder = Path(__file__).resolve().parent.parent / "tests" / "data" / "ops"
    folder.mkdir(parents=True, exist_ok=True)
    makers = {
        "rms_norm": make_rms_norm,
        "softcap": make_softcap,
        "linear": make_linear,
        "qk_rope_kv": make_qk_rope_kv,
        "attention": make_attention,
    }
    for name, make in makers.items():
        golden = Golden(folder / f"{name}.txt")
        make(golden)
        golden.write()
        print(f"{golden.path.name}: {golden.path.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
