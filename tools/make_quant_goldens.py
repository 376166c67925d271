"""Writes tests/data/quant/<FORMAT>.bin: stored blocks of every weight format and the fp32 values they mean.

The values are those of the `gguf` Python package (it decodes all formats, NVFP4 and MXFP4 among them), so that
the C++ decoders are compared with an implementation that shares no code with them. Run again only when a format is
added; the result depends on nothing but this file and that package:

    python tools/make_quant_goldens.py

A file is: uint64 number of stored bytes, the stored bytes, then the expected values as little-endian float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

Bytes = np.ndarray  # of uint8

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "quant"

# binary16 scales at the edges: +0, -0, the subnormals next to zero and to the normals, the smallest normal, the
# largest value, each in both signs, and 1. Never infinity or NaN: what 0 * inf gives is not part of the format.
EDGE_SCALES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x7BFF, 0xFBFF, 0x3C00, 0xBC00], dtype=np.uint16
)

# Where the f16 scales of a block lie, as byte offsets.
SCALE_OFFSETS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip


def random_f16(rng: np.random.Generator, count: int) -> np.ndarray:
    """Scales as models have them: magnitudes spread over many powers of two, both signs."""
    magnitude = np.exp2(rng.uniform(-14, 4, count)) * rng.choice([-1.0, 1.0], count)
    return magnitude.astype(np.float16).view(np.uint16)


def block_bytes(rng: np.random.Generator, name: str, blocks: int) -> Bytes:
    """Blocks in which every byte position takes many values, under edge scales first and ordinary ones after."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    data = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    # Bytes that are all zeros, all ones, and (over consecutive bytes) each of the 256 values.
    data[0] = 0x00
    data[1] = 0xFF
    walk = np.arange(8 * size, dtype=np.uint32).astype(np.uint8).reshape(8, size)
    data[2:10] = walk  # the rest stays random
    for which, offset in enumerate(SCALE_OFFSETS[name]):
        scales = random_f16(rng, blocks)
        edges = np.roll(EDGE_SCALES, 5 * which)
        scales[: len(edges)] = edges
        data[:, offset : offset + 2] = scales.reshape(-1, 1).view(np.uint8)
    return data.reshape(-1)


def mxfp4_bytes(rng: np.random.Generator) -> Bytes:
    """One block for each of the 256 exponents. The largest overflow to infinity, as they should."""
    data = rng.integers(0, 256, (256, 17), dtype=np.uint8)
    data[:, 0] = np.arange(256)
    return data.reshape(-1)


def nvfp4_bytes(rng: np.random.Generator) -> Bytes:
    """Each of the 256 scale bytes, 0x7F (read as 0) and those with the unused top bit included."""
    data = rng.integers(0, 256, (64, 36), dtype=np.uint8)
    data[:, :4] = np.arange(256, dtype=np.uint8).reshape(64, 4)
    return data.reshape(-1)


def float_bytes(rng: np.random.Generator, dtype: type, exponent_mask: int) -> Bytes:
    """The edges of the type, infinity among them, and random numbers. `dtype` is the integer of its width."""
    top = np.iinfo(dtype).max
    bits: np.ndarray = rng.integers(0, top, 2048, dtype=dtype, endpoint=True)
    bits = bits[(bits & exponent_mask) != exponent_mask]
    sign = (top >> 1) + 1
    lowest_normal = exponent_mask & -exponent_mask
    edges = [0, 1, lowest_normal - 1, lowest_normal, exponent_mask - 1, exponent_mask]
    return np.concatenate([np.array(edges + [e | sign for e in edges], dtype=dtype), bits]).view(np.uint8)


def generators() -> dict[str, Callable[[np.random.Generator], Bytes]]:
    made: dict[str, Callable[[np.random.Generator], Bytes]] = {
        "F32": lambda rng: float_bytes(rng, np.uint32, 0x7F800000),
        "F16": lambda rng: float_bytes(rng, np.uint16, 0x7C00),
        "BF16": lambda rng: float_bytes(rng, np.uint16, 0x7F80),
        "MXFP4": mxfp4_bytes,
        "NVFP4": nvfp4_bytes,
    }
    for name in SCALE_OFFSETS:
        elements = GGML_QUANT_SIZES[GGMLQuantizationType[name]][0]
        blocks = 96 if elements == 32 else 24
        made[name] = lambda rng, name=name, blocks=blocks: block_bytes(rng, name, blocks)  # type: ignore[misc]
    return made


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    for number, (name, make) in enumerate(generators().items()):
        stored = make(np.random.default_rng(1000 + number))
        with np.errstate(over="ignore"):
            values = np.asarray(dequantize(stored, GGMLQuantizationType[name])).reshape(-1)
        if values.dtype != np.float32 or np.isnan(values).any():
            print(f"{name}: expected float32 without NaN, found {values.dtype}", file=sys.stderr)
            return 1
        contents = np.uint64(stored.size).tobytes() + stored.tobytes() + values.tobytes()
        (OUT / f"{name}.bin").write_bytes(contents)
        print(f"{name}: {stored.size} bytes, {values.size} values")
    return 0


if __name__ == "__main__":
    sys.exit(main())
