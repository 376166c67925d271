"""Tiny random models of every family with the logits that Hugging Face computes, as GGUF and .npy files.

    python tools/make_goldens.py tests/data/models

Needs torch, transformers and gguf; nothing else of the project does, as the files are committed. Each model is
`<name>.gguf` with `<name>.ids.npy` (int32 [tokens]) and `<name>.logits.npy` (float32 [tokens, vocab_size]).
`<name>.f16kv.npy` are the logits with keys and values rounded to f16 as imp's KV cache stores them: the sharper oracle.
`<name>.int8.npy`, of the models in block formats, are those with activations rounded to int8 as well, as fast kernels do.
One model also has `.hidden.npy` (float32 [num_layers + 1, tokens, hidden_size], the residual stream: after the embedding,
then after each layer) and `.exit0.npy` (logits of the model cut off after layer 0).

Weights carry outliers, as trained ones do: a few channels of each norm are 20 times the others, and a few rows of each
matrix 5 times. Everything follows from the seeds below.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Format
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [
    "h e",
    "l l",
    "i n",
    "e r",
    "o n",
    "Ġ t",
    "Ġt he",
    "a n",
    "Ġ a",
    "r e",
    "o r",
    "Ġ w",
    "ll o",
    "he llo",
    "e s",
    "i t",
    "Ġ o",
    "e n",
    "Ġw or",
    "Ġwor l",
    "Ġworl d",
    "o u",
    "Ġ s",
    "a t",
    "Ġ b",
    "Ġ c",
    "i s",
    "e d",
    "Ġa n",
]
BLOCK_FORMATS = (Format.Q8_0, Format.Q4_K, Format.Q6_K)
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256 + len(MERGES)  # 288, a multiple of 32

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

ROLES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.bias": "attn_output.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
GEMMA_ROLES = ROLES | {
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}


@dataclass
class Golden:
    """One model: how to make it, how to store it, what to say about it in the metadata."""

    name: str
    architecture: str
    model: Callable[[], PreTrainedModel]
    seed: int
    formats: Format | Callable[[str], Format] = Format.F32  # of the matrices; by Hugging Face's name where they differ
    metadata: Callable[[gguf.GGUFWriter], None] | None = None
    rope_freqs: np.ndarray | None = None
    num_tokens: int = 40
    tokenizer: bool = False
    everything: bool = False  # hidden states and early exit too


def f16_kv_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Eager attention over keys and values as an f16 cache gives them back."""
    return eager_attention_forward(module, query, key.half().float(), value.half().float(), *args, **kwargs)


AttentionInterface.register("f16_kv", f16_kv_attention)
AttentionMaskInterface.register("f16_kv", eager_mask)


def fill(model: PreTrainedModel, golden: Golden) -> dict[str, tuple[Format, np.ndarray]]:
    """Sets random weights with outliers; returns {HF name: (format, stored bytes)} whose decoded values the model now has."""
    rng = np.random.default_rng(golden.seed)
    stored = {}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if parameter.ndim == 1:
            values = random_vector(rng, shape[0], name, golden.architecture)
            format_ = Format.F32
            data = values
        else:
            format_ = golden.formats(name) if callable(golden.formats) else golden.formats
            data = random_matrix(rng, shape, format_, matrix_std(name, shape, golden.architecture))
            values = decode(data, format_, shape)
        stored[name] = (format_, data)
        parameter.data = torch.from_numpy(values.copy())
    return stored


def random_vector(rng: np.random.Generator, size: int, name: str, architecture: str) -> np.ndarray:
    if name.endswith(".bias"):
        return (0.5 * rng.standard_normal(size)).astype(np.float32)
    scale = 1 + 0.1 * rng.standard_normal(size)
    if "q_norm" not in name and "k_norm" not in name:
        scale[rng.choice(size, size=max(1, size // 32), replace=False)] *= 20
    if architecture == "gemma3":
        if "post" in name:
            scale *= 0.5
        scale -= 1
    return scale.astype(np.float32)


def matrix_std(name: str, shape: tuple[int, int], architecture: str) -> float:
    """Keeps the residual, the logits and the attention scores at sizes where every block matters and none decides all."""
    if "embed" in name:
        return shape[1] ** -0.5 if architecture == "gemma3" else 0.3  # Gemma scales embeddings by sqrt(hidden_size)
    if architecture in ("llama", "qwen2") and ("q_proj" in name or "k_proj" in name):
        return 0.4 * shape[1] ** -0.5  # without QK norm the outliers would make every softmax a choice of one
    return shape[1] ** -0.5


def random_matrix(rng: np.random.Generator, shape: tuple[int, int], format_: Format, std: float) -> np.ndarray:
    """Random weights of this standard deviation, in the format's own bytes (floats for F32)."""
    if format_ in (Format.Q4_K, Format.Q6_K):
        return random_k_blocks(rng, shape, format_, std)
    values = (std * rng.standard_normal(shape)).astype(np.float32)
    values[rng.choice(shape[0], size=max(1, shape[0] // 64), replace=False)] *= 5
    return values if format_ == Format.F32 else gguf.quants.quantize(values, format_)


def random_k_blocks(rng: np.random.Generator, shape: tuple[int, int], format_: Format, std: float) -> np.ndarray:
    """Random quants under chosen scales: the gguf package decodes k-quants, but does not make them."""
    block_size, type_size = gguf.GGML_QUANT_SIZES[format_]
    num_blocks = shape[0] * shape[1] // block_size
    blocks = rng.integers(0, 256, size=(num_blocks, type_size), dtype=np.uint8)
    spread = np.exp(0.4 * rng.standard_normal(num_blocks))
    if format_ == Format.Q4_K:
        blocks[:, 0:2] = (std / 4.6 / 32 * spread).astype(np.float16).view(np.uint8).reshape(-1, 2)
        blocks[:, 2:4] = (std / 32 * 1.6 * spread).astype(np.float16).view(np.uint8).reshape(-1, 2)
    else:
        blocks[:, 208:210] = (std / 18 / 64 * spread).astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(shape[0], -1)


def decode(data: np.ndarray, format_: Format, shape: tuple[int, ...]) -> np.ndarray:
    return data if format_ == Format.F32 else gguf.quants.dequantize(data, format_).reshape(shape).astype(np.float32)


def permute_rows(data: np.ndarray, num_heads: int) -> np.ndarray:
    """Half-split -> interleaved pairs: row i of each half of a head becomes row 2i or 2i + 1, as GGUF has Llama's q and k."""
    rows = data.shape[0]
    return data.reshape(num_heads, 2, rows // num_heads // 2, -1).swapaxes(1, 2).reshape(data.shape)


def write_gguf(
    path: Path, golden: Golden, model: PreTrainedModel, stored: dict[str, tuple[Format, np.ndarray]]
) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, golden.architecture)
    writer.add_name(golden.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if golden.architecture in ("qwen3", "gemma3"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if golden.architecture == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if golden.metadata:
        golden.metadata(writer)
    if golden.tokenizer:
        add_tokenizer(writer)
    else:
        writer.add_tokenizer_model("no_vocab")
    if golden.rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", golden.rope_freqs)
    for name, (format_, data) in stored.items():
        writer.add_tensor(
            gguf_name(name, golden.architecture),
            arrange(name, data, golden.architecture, config),
            raw_dtype=None if format_ == Format.F32 else format_,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def arrange(name: str, data: np.ndarray, architecture: str, config: Any) -> np.ndarray:
    """The weight as GGUF has it: Llama's q and k permuted, the +1 of Gemma's norms folded in."""
    if architecture == "llama" and "q_proj" in name:
        return permute_rows(data, config.num_attention_heads)
    if architecture == "llama" and "k_proj" in name:
        return permute_rows(data, config.num_key_value_heads)
    return data + np.float32(1) if architecture == "gemma3" and data.ndim == 1 else data


def gguf_name(name: str, architecture: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    layer, role = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{(GEMMA_ROLES if architecture == 'gemma3' else ROLES)[role]}"


def byte_to_text() -> list[str]:
    """The printable stand-in of each byte in byte-level BPE vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = SPECIAL_TOKENS + byte_to_text() + [merge.replace(" ", "") for merge in MERGES]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control] * len(SPECIAL_TOKENS) + [normal] * (len(tokens) - len(SPECIAL_TOKENS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def logits_of(model: PreTrainedModel, ids: torch.Tensor, attention: str) -> np.ndarray:
    model.set_attn_implementation(attention)
    with torch.no_grad():
        return model(ids[None]).logits[0].float().numpy()


def hidden_of(model: PreTrainedModel, ids: torch.Tensor) -> np.ndarray:
    """The residual stream after the embedding and after each layer. (HF's last hidden state is past the final norm.)"""
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: Any, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)

    hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
    model.set_attn_implementation("f16_kv")
    with torch.no_grad():
        seen.append(model.model.embed_tokens(ids[None]))
        model(ids[None])
    for hook in hooks:
        hook.remove()
    return np.stack([state.reshape(len(ids), -1).float().numpy() for state in seen])


def make(golden: Golden, folder: Path) -> None:
    torch.manual_seed(golden.seed)
    model = golden.model().float().eval()
    stored = fill(model, golden)
    write_gguf(folder / f"{golden.name}.gguf", golden, model, stored)
    ids = np.random.default_rng(golden.seed + 1000).integers(3, VOCAB_SIZE, size=golden.num_tokens).astype(np.int32)
    tensor = torch.from_numpy(ids.astype(np.int64))
    np.save(folder / f"{golden.name}.ids.npy", ids)
    logits = logits_of(model, tensor, "eager")
    np.save(folder / f"{golden.name}.logits.npy", logits)
    rounded = logits_of(model, tensor, "f16_kv")
    np.save(folder / f"{golden.name}.f16kv.npy", rounded)
    if has_block_formats(golden):
        np.save(folder / f"{golden.name}.int8.npy", logits_with_int8_activations(model, tensor))
    if golden.everything:
        np.save(folder / f"{golden.name}.hidden.npy", hidden_of(model, tensor))
        cut = copy.deepcopy(model)
        cut.model.layers = cut.model.layers[:1]
        np.save(folder / f"{golden.name}.exit0.npy", logits_of(cut, tensor, "f16_kv"))
    files = list(folder.glob(f"{golden.name}.*"))
    print(
        f"{golden.name:20} {sum(file.stat().st_size for file in files) / 1e3:5.0f} kB  "
        f"|logits| {np.abs(logits).max():6.2f}  change: {sharpness(golden, model, tensor, logits, rounded)}"
    )


def has_block_formats(golden: Golden) -> bool:
    return callable(golden.formats) or golden.formats in BLOCK_FORMATS


def logits_with_int8_activations(model: PreTrainedModel, ids: torch.Tensor) -> np.ndarray:
    """What kernels for block formats compute: inputs of every linear rounded to int8 under a scale for each 32."""

    def round_input(_module: nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
        groups = args[0].reshape(-1, 32)
        scale = groups.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
        return ((groups / scale).round() * scale).reshape(args[0].shape)

    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [linear.register_forward_pre_hook(round_input) for linear in linears]
    logits = logits_of(model, ids, "f16_kv")
    for hook in hooks:
        hook.remove()
    return logits


def sharpness(
    golden: Golden, model: PreTrainedModel, ids: torch.Tensor, logits: np.ndarray, rounded: np.ndarray
) -> str:
    """How far the logits move with f16 keys, with int8 activations, and with a window one off.

    The first two are what kernels may cost (the tests' tolerances), the last what the goldens must be able to tell.
    """

    def change(other: np.ndarray) -> str:
        return f"{np.linalg.norm(other - logits) / np.linalg.norm(logits):.1e}"

    line = f"f16 KV {change(rounded)}"
    if has_block_formats(golden):
        line += f", int8 activations {change(logits_with_int8_activations(model, ids))}"
    if golden.architecture == "gemma3":
        wider = copy.deepcopy(model)
        wider.config.sliding_window += 1
        line += f", window + 1 {change(logits_of(wider, ids, 'eager'))}"
    return line


SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def llama(**changes: Any) -> Callable[[], PreTrainedModel]:
    settings = SMALL | {"rms_norm_eps": 1e-5, "tie_word_embeddings": False} | changes
    return lambda: LlamaForCausalLM(LlamaConfig(**settings))


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def llama3_divisors(rotary_dim: int, rope: dict[str, Any]) -> np.ndarray:
    """What GGUF stores as rope_freqs: base frequency / scaled frequency."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    frequency = rope["rope_theta"] ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    wavelength = 2 * math.pi / frequency
    kept = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)


def gemma3(**changes: Any) -> Callable[[], PreTrainedModel]:
    settings = (
        SMALL
        | {
            "num_hidden_layers": 7,
            "head_dim": 32,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "tie_word_embeddings": True,
        }
        | changes
    )
    return lambda: Gemma3ForCausalLM(Gemma3TextConfig(**settings))


def gemma3_rope(factor: float) -> dict[str, Any]:
    scaled = {"rope_type": "linear", "factor": factor} if factor != 1 else {"rope_type": "default"}
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": scaled | {"rope_theta": 1000000.0},
    }


def add_theta(theta: float) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: writer.add_rope_freq_base(theta)


def add_yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(64)


def add_linear(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.0)


def add_gemma(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_freq_base(1000000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)
    writer.add_sliding_window(8)


def add_gemma_softcap(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_freq_base(1000000.0)
    writer.add_sliding_window(5)
    writer.add_uint32("gemma3.attention.sliding_window_pattern", 3)
    writer.add_final_logit_softcapping(10.0)


def k_mix(name: str) -> Format:
    return (
        Format.Q6_K if "v_proj" in name or "down_proj" in name or "embed" in name or "lm_head" in name else Format.Q4_K
    )


GOLDENS = [
    Golden("tiny-llama", "llama", llama(num_hidden_layers=3), seed=1, tokenizer=True, everything=True),
    Golden(
        "tiny-llama3",
        "llama",
        llama(tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
        seed=2,
        formats=Format.BF16,
        metadata=add_theta(500000.0),
        rope_freqs=llama3_divisors(16, LLAMA3_ROPE),
    ),
    Golden(
        "tiny-llama-yarn",
        "llama",
        llama(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        ),
        seed=3,
        formats=Format.F16,
        metadata=add_yarn,
    ),
    Golden(
        "tiny-llama-linear",
        "llama",
        llama(attention_bias=True, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
        seed=4,
        formats=Format.F16,
        metadata=add_linear,
    ),
    Golden("tiny-llama-q8_0", "llama", llama(), seed=5, formats=Format.Q8_0),
    Golden(
        "tiny-qwen2",
        "qwen2",
        lambda: Qwen2ForCausalLM(
            Qwen2Config(
                **SMALL,
                rms_norm_eps=1e-6,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        ),
        seed=6,
        formats=Format.F16,
        metadata=add_theta(1000000.0),
    ),
    Golden(
        "tiny-qwen3",
        "qwen3",
        lambda: Qwen3ForCausalLM(
            Qwen3Config(
                **SMALL,
                head_dim=32,
                rms_norm_eps=1e-6,
                tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        ),
        seed=7,
        formats=Format.F16,
        metadata=add_theta(1000000.0),
    ),
    Golden(
        "tiny-qwen3-q4_k",
        "qwen3",
        lambda: Qwen3ForCausalLM(
            Qwen3Config(
                **(SMALL | {"hidden_size": 256, "intermediate_size": 512}),
                head_dim=64,
                rms_norm_eps=1e-6,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        ),
        seed=8,
        formats=k_mix,
        metadata=add_theta(1000000.0),
    ),
    Golden(
        "tiny-gemma3",
        "gemma3",
        gemma3(rope_parameters=gemma3_rope(8.0)),
        seed=9,
        formats=Format.F16,
        metadata=add_gemma,
    ),
    Golden(
        "tiny-gemma3-softcap",
        "gemma3",
        gemma3(
            num_hidden_layers=3,
            sliding_window=5,
            sliding_window_pattern=3,
            final_logit_softcapping=10.0,
            rope_parameters=gemma3_rope(1.0),
        ),
        seed=10,
        metadata=add_gemma_softcap,
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for golden in GOLDENS:
        make(golden, folder)


if __name__ == "__main__":
    main()
