"""Writes GGUF files with the shapes of real models and random weights, for measuring speed without a download.

    python tools/synth_model.py --out DIR qwen3-8b-q8_0 llama-1b-bf16 ...

Speed depends on shapes and formats alone; the text such a model writes is noise. Scales are chosen so that weights have the
spread that training gives them, and activations stay finite. Needs numpy and the gguf package (pip install gguf).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Format

CONTEXT_LENGTH = 40960


@dataclass(frozen=True)
class Shape:
    """The sizes of a dense decoder."""

    architecture: str
    num_layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rope_theta: float
    epsilon: float
    tied: bool = False  # the head is the embedding table
    qk_norm: bool = False


SHAPES = {
    "qwen3-8b": Shape("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 1e6, 1e-6, qk_norm=True),
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 1e6, 1e-6, qk_norm=True),
    "llama-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256, 5e5, 1e-5, tied=True),
}


def k_m(plain: Format, name: str, layer: int, shape: Shape) -> Format:
    """The usual mix: the head, and v and down of the first, the last and every third layer in between, in Q6_K."""
    eighth = shape.num_layers // 8
    chosen = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    if name == "output" or (name == "token_embd" and shape.tied):
        return Format.Q6_K
    return Format.Q6_K if name in ("attn_v", "ffn_down") and chosen else plain


def q3_k_m(name: str, layer: int, shape: Shape) -> Format:
    """The head in Q6_K, what is most sensitive in Q4_K, and in Q5_K at the beginning."""
    if name == "output" or (name == "token_embd" and shape.tied):
        return Format.Q6_K
    if name == "attn_v":
        return Format.Q5_K if layer < 2 else Format.Q4_K
    if name == "ffn_down":
        return Format.Q5_K if layer < shape.num_layers // 16 else Format.Q4_K
    return Format.Q4_K if name == "attn_output" else Format.Q3_K


def with_q6_k_head(plain: Format, name: str, _layer: int, shape: Shape) -> Format:
    """One format and the head in Q6_K."""
    return Format.Q6_K if name == "output" or (name == "token_embd" and shape.tied) else plain


MIXES: dict[str, Callable[[str, int, Shape], Format]] = {
    "q8_0": lambda name, layer, shape: Format.Q8_0,
    "q6_k": lambda name, layer, shape: Format.Q6_K,
    "q4_k_m": partial(k_m, Format.Q4_K),
    "q5_k_m": partial(k_m, Format.Q5_K),
    "q3_k_m": q3_k_m,
    "q4_0": partial(with_q6_k_head, Format.Q4_0),
    "iq4_xs": partial(with_q6_k_head, Format.IQ4_XS),
    "bf16": lambda name, layer, shape: Format.BF16,
}


class Noise:
    """Weights of a wanted spread in a format's own bytes, cut from one pool so that gigabytes take seconds."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)
        self._bytes = self._rng.integers(0, 256, size=(1 << 26) + (1 << 12), dtype=np.uint8)
        self._normal = self._rng.standard_normal(1 << 22, dtype=np.float32)

    def rows(self, rows: int, cols: int, kind: Format, spread: float) -> Any:
        if kind == Format.BF16:
            numbers = ((self._normal * np.float32(spread)).view(np.uint32) >> 16).astype(np.uint16)
            return np.resize(numbers, rows * cols).view(np.uint8).reshape(rows, cols * 2)
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        start = int(self._rng.integers(0, 1 << 12))
        blocks = np.resize(self._bytes[start:], rows * cols // elements * size).reshape(-1, size)

        def scale(first: int, value: float) -> None:
            blocks[:, first : first + 2] = np.frombuffer(np.float16(value).tobytes(), dtype=np.uint8)

        # Uniform random codes: int8 spreads by 74, 6 bits by 18.5, 5 bits by 9.2, 4 bits by 4.6, 3 bits by 2.3; sub-block
        # scales are random too.
        if kind == Format.Q8_0:
            scale(0, spread / 74)
        elif kind == Format.Q6_K:
            scale(208, spread / (74 * 18.5))
        elif kind == Format.Q4_K:
            scale(0, spread / (4.6 * 32))
            scale(2, 7.5 * spread / (4.6 * 32))  # takes the middle code back to zero
        elif kind == Format.Q5_K:
            scale(0, spread / (9.2 * 32))
            scale(2, 15.5 * spread / (9.2 * 32))
        elif kind == Format.Q3_K:
            scale(108, spread / (2.3 * 18.5))
        elif kind == Format.Q4_0:
            scale(0, spread / 4.6)
        elif kind == Format.IQ4_XS:
            scale(0, spread / (18.5 * 70))  # of a table of values to 127
        else:
            raise ValueError(f"no recipe for {kind.name}")
        return blocks.reshape(rows, -1)


def split_name(name: str) -> tuple[Shape, str]:
    """qwen3-8b-q4_k_m: the shape and the mix of formats."""
    base, _, mix = name.rpartition("-")
    if base not in SHAPES or mix not in MIXES:
        raise ValueError(f"{name}: expected one of {', '.join(SHAPES)}, then - and one of {', '.join(MIXES)}")
    return SHAPES[base], mix


def write_model(name: str, folder: Path) -> Path:
    """The file DIR/name.gguf; it appears under that name when it is complete."""
    shape, mix = split_name(name)
    noise = Noise()
    path = folder / f"{name}.gguf"
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(str(unfinished), shape.architecture)
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocab)
    if shape.architecture == "llama":
        writer.add_rope_dimension_count(shape.head_dim)
    writer.add_tokenizer_model("no_vocab")

    def matrix(
        tensor: str, rows: int, cols: int, layer: int = 0, prefix: str = "", spread: float | None = None
    ) -> None:
        kind = MIXES[mix](tensor, layer, shape)
        weights = noise.rows(rows, cols, kind, spread or cols**-0.5)
        writer.add_tensor(f"{prefix}{tensor}.weight", weights, raw_dtype=kind)

    def ones(tensor: str, size: int) -> None:
        writer.add_tensor(f"{tensor}.weight", np.ones(size, dtype=np.float32))

    matrix("token_embd", shape.vocab, shape.hidden, spread=0.02)
    if not shape.tied:
        matrix("output", shape.vocab, shape.hidden)
    ones("output_norm", shape.hidden)
    q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.num_layers):
        prefix = f"blk.{layer}."
        ones(f"{prefix}attn_norm", shape.hidden)
        ones(f"{prefix}ffn_norm", shape.hidden)
        if shape.qk_norm:
            ones(f"{prefix}attn_q_norm", shape.head_dim)
            ones(f"{prefix}attn_k_norm", shape.head_dim)
        matrix("attn_q", q_width, shape.hidden, layer, prefix)
        matrix("attn_k", kv_width, shape.hidden, layer, prefix)
        matrix("attn_v", kv_width, shape.hidden, layer, prefix)
        matrix("attn_output", shape.hidden, q_width, layer, prefix)
        matrix("ffn_gate", shape.intermediate, shape.hidden, layer, prefix)
        matrix("ffn_up", shape.intermediate, shape.hidden, layer, prefix)
        matrix("ffn_down", shape.hidden, shape.intermediate, layer, prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.replace(path)


def write_models(names: list[str], folder: Path, jobs: int) -> None:
    """Those that `folder` does not have yet, side by side."""
    missing = [name for name in names if not (folder / f"{name}.gguf").is_file()]
    for name in missing:
        split_name(name)
    if not missing:
        return
    started = time.monotonic()
    with ProcessPoolExecutor(min(jobs, len(missing))) as pool:
        for path in pool.map(partial(write_model, folder=folder), missing):
            print(f"{path}: {path.stat().st_size / 1e9:.2f} GB, {time.monotonic() - started:.1f} s", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="such as qwen3-8b-q4_k_m")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--jobs", type=int, default=6, help="files at a time; each takes its own size in memory")
    args = parser.parse_args()
    try:
        write_models(args.names, args.out, args.jobs)
    except ValueError as error:
        sys.exit(f"synth_model: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
