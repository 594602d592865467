"""Small seeded GGUFs of every architecture row and weight type, for tests of the whole runtime.

    tiny = build("gemma3", "Q4_K", seed=1)
    tiny.kv["gemma3.block_count"] = (0, UINT32)      # spoil it
    path = tiny.save(tmp_path / "tiny.gguf")

Written with the `gguf` package. The tokenizer is small and real: byte-level BPE with merges learnt
from a few sentences (SPM with byte tokens for the gemmas), ChatML or Gemma turn tokens and a chat
template; so a tiny model can be packed and chatted with, though it talks nonsense.

Weights are random with the spread of a trained network. Types that the package can quantize to are
quantized; for the K types random blocks are drawn and their scales set, which serves as well since
the reference reads the very same blocks.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as QType
from gguf import GGUFValueType as VType
from gguf import quants

ARCHS = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")
TYPES = (
    "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()
)  # every type of the runtime

# Offsets of the f16 scales in a block, and the larger of them first.
_K_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}

_TEXT = (
    "The quick brown fox jumps over the lazy dog. What is the capital of France? The capital of "
    "France is Paris. Once upon a time there was a small model that could not say very much, but "
    "what it said it said quickly. You are a helpful assistant. One, two, three and four."
)

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if "
    "message['role'] == 'assistant' else message['role']) + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<start_of_turn>model\n' }}{% endif %}"
)


@dataclass
class Shape:
    """Sizes of a tiny model; every matrix row is a whole number of 256-blocks."""

    n_layer: int = 2
    n_embd: int = 256
    n_head: int = 4
    n_kv: int = 2
    key_len: int = 64
    n_ff: int = 512
    n_ctx: int = 512
    window: int = 0


def shape_of(arch: str) -> Shape:
    match arch:
        case "qwen3":
            return Shape(n_head=4, n_kv=1, key_len=128)  # heads * head size is not embd
        case "gemma":
            return Shape(n_head=4, n_kv=1)
        case "gemma2":
            return Shape(n_layer=4, window=24)
        case "gemma3":
            return Shape(n_layer=7, n_kv=1, key_len=128, window=40)  # layer 5 is global
        case _:
            return Shape()


@dataclass
class Tensor:
    data: npt.NDArray[Any]  # as stored: float32, or uint8 rows of blocks
    type: QType

    @property
    def raw(self) -> bool:
        return self.type not in (QType.F32, QType.F16)


@dataclass
class Tiny:
    arch: str
    kv: dict[str, tuple[Any, VType] | tuple[Any, VType, VType]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.arch)
        # The writer puts general.architecture first by itself.
        for key, entry in self.kv.items():
            if len(entry) == 3:
                writer.add_key_value(key, entry[0], entry[1], entry[2])
            else:
                writer.add_key_value(key, entry[0], entry[1])
        for name, tensor in self.tensors.items():
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.type if tensor.raw else None)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def build(
    arch: str = "llama",
    weight_type: str = "Q8_0",
    *,
    seed: int = 0,
    shape: Shape | None = None,
    tied: bool | None = None,
    biases: bool | None = None,
    embd_type: str | None = None,
) -> Tiny:
    rng = np.random.default_rng(seed)
    s = shape or shape_of(arch)
    tiny = Tiny(arch)
    add_tokenizer(tiny, spm=arch.startswith("gemma"))
    add_hyperparameters(tiny, s)
    n_vocab = len(tiny.kv["tokenizer.ggml.tokens"][0])
    tied = arch not in ("llama", "qwen2") if tied is None else tied
    biases = arch == "qwen2" if biases is None else biases

    def matrix(
        name: str, n_out: int, n_in: int, kind: str = weight_type, gain: float = 1.0
    ) -> None:
        spread = gain / np.sqrt(n_in)
        tiny.tensors[f"{name}.weight"] = random_matrix(rng, n_out, n_in, kind, spread)

    def vector(name: str, n: int, mean: float, spread: float) -> None:
        values = rng.normal(mean, spread, n).astype(np.float32)
        tiny.tensors[name] = Tensor(values, QType.F32)

    # Rows of about unit length in the stream, and logits that are peaked as a real model's are.
    gemma = arch.startswith("gemma")
    embd_gain = 1.0 if gemma else float(np.sqrt(s.n_embd))
    matrix("token_embd", n_vocab, s.n_embd, embd_type or weight_type, embd_gain)
    if not tied:
        matrix("output", n_vocab, s.n_embd, embd_type or weight_type, 3.0)
    norm = 1.0 if not tied else 1.5 if gemma else 0.08
    vector("output_norm.weight", s.n_embd, norm, 0.1 * norm)
    widths = {"attn_q": s.n_head * s.key_len, "attn_k": s.n_kv * s.key_len}
    widths["attn_v"] = widths["attn_k"]
    for layer in range(s.n_layer):
        p = f"blk.{layer}."
        vector(p + "attn_norm.weight", s.n_embd, 1, 0.1)
        vector(p + "ffn_norm.weight", s.n_embd, 1, 0.1)
        for name, width in widths.items():
            matrix(p + name, width, s.n_embd, gain=2.0)
            if biases:
                vector(f"{p}{name}.bias", width, 0, 0.3)
        matrix(p + "attn_output", s.n_embd, widths["attn_q"])
        matrix(p + "ffn_gate", s.n_ff, s.n_embd, gain=1.5)
        matrix(p + "ffn_up", s.n_ff, s.n_embd, gain=1.5)
        matrix(p + "ffn_down", s.n_embd, s.n_ff)
        if arch in ("qwen3", "gemma3"):
            vector(p + "attn_q_norm.weight", s.key_len, 1.5, 0.2)
            vector(p + "attn_k_norm.weight", s.key_len, 1.5, 0.2)
        if arch in ("gemma2", "gemma3"):
            vector(p + "post_attention_norm.weight", s.n_embd, 0.5, 0.1)
            vector(p + "post_ffw_norm.weight", s.n_embd, 0.5, 0.1)
    return tiny


def add_hyperparameters(tiny: Tiny, s: Shape) -> None:
    a, u32, f32 = tiny.arch, VType.UINT32, VType.FLOAT32
    tiny.kv |= {
        "general.name": (f"tiny {a}", VType.STRING),
        f"{a}.block_count": (s.n_layer, u32),
        f"{a}.context_length": (s.n_ctx, u32),
        f"{a}.embedding_length": (s.n_embd, u32),
        f"{a}.feed_forward_length": (s.n_ff, u32),
        f"{a}.attention.head_count": (s.n_head, u32),
        f"{a}.attention.head_count_kv": (s.n_kv, u32),
        f"{a}.attention.layer_norm_rms_epsilon": (1e-5, f32),
        f"{a}.rope.freq_base": (1e6 if a == "gemma3" else 10000.0, f32),
    }
    if s.n_head * s.key_len != s.n_embd:
        tiny.kv[f"{a}.attention.key_length"] = (s.key_len, u32)
        tiny.kv[f"{a}.attention.value_length"] = (s.key_len, u32)
    if s.window:
        tiny.kv[f"{a}.attention.sliding_window"] = (s.window, u32)
    if a == "gemma2":
        tiny.kv[f"{a}.attn_logit_softcapping"] = (50.0, f32)
        tiny.kv[f"{a}.final_logit_softcapping"] = (30.0, f32)


# --- weights ---------------------------------------------------------------------------------


def random_matrix(
    rng: np.random.Generator, n_out: int, n_in: int, kind: str, spread: float
) -> Tensor:
    """An (n_out, n_in) matrix of this type whose values spread about as asked."""
    qtype = QType[kind]
    if kind in _K_SCALES:
        return Tensor(random_blocks(rng, n_out, n_in, qtype, spread), qtype)
    values = (rng.standard_normal((n_out, n_in)) * spread).astype(np.float32)
    if kind == "F32":
        return Tensor(values, qtype)
    if kind == "F16":
        return Tensor(values.astype(np.float16), qtype)
    return Tensor(quants.quantize(values, qtype), qtype)


def random_blocks(
    rng: np.random.Generator, n_out: int, n_in: int, qtype: QType, spread: float
) -> npt.NDArray[np.uint8]:
    block, size = gguf.GGML_QUANT_SIZES[qtype]
    n = n_out * n_in // block
    data = rng.integers(0, 256, (n, size), dtype=np.uint8)
    scales = _K_SCALES[qtype.name]

    def put(values: list[npt.NDArray[Any]]) -> None:
        for offset, value in zip(scales, values, strict=True):
            data[:, offset : offset + 2] = value.astype(np.float16).view(np.uint8).reshape(n, 2)

    # Random codes are lopsided (all minimums are positive), so the minimum is weighed to centre
    # them: measure each part with the other at 0.
    one, zero = np.ones(n), np.zeros(n)
    put([one, zero][: len(scales)])
    main = quants.dequantize(data.reshape(n_out, -1), qtype)
    ratio = 0.0
    if len(scales) == 2:
        put([zero, one])
        low = quants.dequantize(data.reshape(n_out, -1), qtype)
        ratio = float(-main.mean() / low.mean())
        main = main + ratio * low
    d = spread / float(main.std()) * rng.uniform(0.7, 1.3, n)
    put([d, d * ratio][: len(scales)])
    return data.reshape(n_out, -1)


# --- tokenizers ------------------------------------------------------------------------------


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for every byte."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    out, extra = [], 0
    for byte in range(256):
        if byte in keep:
            out.append(chr(byte))
        else:
            out.append(chr(256 + extra))
            extra += 1
    return out


def learn_merges(words: list[list[str]], n: int) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for _ in range(n):
        pairs = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_merge(word, best) for word in words]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def add_tokenizer(tiny: Tiny, *, spm: bool) -> None:
    if spm:
        _add_spm(tiny)
    else:
        _add_bpe(tiny)


def _strings(values: list[str]) -> tuple[Any, VType, VType]:
    return (values, VType.ARRAY, VType.STRING)


def _add_bpe(tiny: Tiny) -> None:
    symbols = byte_symbols()
    words = [[symbols[b] for b in f" {word}".encode()] for word in _TEXT.split()]
    merges = learn_merges(words, 120)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *symbols, *dict.fromkeys(a + b for a, b in merges)]
    while len(tokens) % 32:
        tokens.append(f"<|unused_{len(tokens)}|>")
    types = [3 if t.startswith("<|") and t.endswith("|>") else 1 for t in tokens]
    k = "tokenizer.ggml."
    tiny.kv |= {
        k + "model": ("gpt2", VType.STRING),
        k + "pre": ("gpt-2" if tiny.arch == "llama" else "qwen2", VType.STRING),
        k + "tokens": _strings(tokens),
        k + "token_type": (types, VType.ARRAY, VType.INT32),
        k + "merges": _strings([f"{a} {b}" for a, b in merges]),
        k + "bos_token_id": (1, VType.UINT32),
        k + "eos_token_id": (2, VType.UINT32),
        k + "add_bos_token": (False, VType.BOOL),
        "tokenizer.chat_template": (_CHATML, VType.STRING),
    }


def _add_spm(tiny: Tiny) -> None:
    words = [list("▁" + word) for word in _TEXT.split()]
    merges = learn_merges(words, 120)
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    letters = sorted({c for word in words for c in word} | set("abcdefghijklmnopqrstuvwxyz\n"))
    pieces = list(dict.fromkeys(a + b for a, b in merges))
    tokens = [*control, *(f"<0x{i:02X}>" for i in range(256)), *pieces, *letters]
    types = [3] * len(control) + [6] * 256 + [1] * (len(pieces) + len(letters))
    types[3] = 2
    scores = [-1000.0] * len(control) + [0.0] * 256
    scores += [-float(i) for i in range(len(pieces) + len(letters))]
    while len(tokens) % 32:
        tokens.append(f"<unused{len(tokens)}>")
        types.append(3)
        scores.append(-1000.0)
    k = "tokenizer.ggml."
    tiny.kv |= {
        k + "model": ("llama", VType.STRING),
        k + "tokens": _strings(tokens),
        k + "token_type": (types, VType.ARRAY, VType.INT32),
        k + "scores": (scores, VType.ARRAY, VType.FLOAT32),
        k + "bos_token_id": (2, VType.UINT32),
        k + "eos_token_id": (1, VType.UINT32),
        k + "unknown_token_id": (3, VType.UINT32),
        k + "padding_token_id": (0, VType.UINT32),
        k + "add_bos_token": (True, VType.BOOL),
        k + "add_eos_token": (False, VType.BOOL),
        k + "add_space_prefix": (False, VType.BOOL),
        "tokenizer.chat_template": (_GEMMA, VType.STRING),
    }
