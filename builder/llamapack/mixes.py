"""Which weight type each tensor of a quantized model gets.

A mix such as Q4_K_M is a name that everybody knows for a rule, not for a format. The rules are
the public ones, so that a file is as large as others of its name: the matrices that errors hurt
most get more bits (attn_v and ffn_down in the first and last eighth of the layers and in every
third between; the output matrix, or the embeddings where they serve as it). Rows that do not
divide into blocks of 256 take a type with blocks of 32 and no fewer bits.

SPDX-License-Identifier: Apache-2.0
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llamapack.errors import UsageError
from llamapack.gguf import TYPES, Gguf, Tensor, Type

__all__ = ["MIXES", "Mix", "find_mix", "types_of"]

_BY_NAME: Mapping[str, Type] = {kind.name: kind for kind in TYPES.values()}
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_OUTPUT, _EMBEDDINGS = "output.weight", "token_embd.weight"
# Small, and what they decide is not made good by anything after them.
_KEPT = ("_norm.weight", "ffn_gate_inp.weight")


@dataclass(frozen=True, slots=True)
class Mix:
    name: str
    file_type: int  # general.file_type
    bulk: str
    sensitive: str  # of attn_v and ffn_down in some layers
    output: str


MIXES = (
    Mix("Q4_0", 2, "Q4_0", "Q4_0", "Q6_K"),
    Mix("Q4_K_M", 15, "Q4_K", "Q6_K", "Q6_K"),
    Mix("Q5_K_M", 17, "Q5_K", "Q6_K", "Q6_K"),
    Mix("Q6_K", 18, "Q6_K", "Q6_K", "Q6_K"),
    Mix("Q8_0", 7, "Q8_0", "Q8_0", "Q8_0"),
)


def find_mix(name: str) -> Mix:
    for mix in MIXES:
        if mix.name == name.upper():
            return mix
    known = ", ".join(mix.name for mix in MIXES)
    raise UsageError(f"--quant {name}: no such type (there are: {known})")


def types_of(mix: Mix, gguf: Gguf) -> list[Type]:
    """The type of every tensor in the file's order; that it has now where it is to be kept."""
    tied = all(tensor.name != _OUTPUT for tensor in gguf.tensors)
    layers = gguf.number(f"{gguf.architecture}.block_count")
    count = int(layers) if layers else 0
    return [_type_of(mix, tensor, count, tied=tied) for tensor in gguf.tensors]


def _type_of(mix: Mix, tensor: Tensor, layers: int, *, tied: bool) -> Type:
    rows = tensor.elements // tensor.shape[0]
    if rows == 1 or not tensor.name.endswith(".weight") or tensor.name.endswith(_KEPT):
        return tensor.type
    name = mix.bulk
    layer = _LAYER.fullmatch(tensor.name)
    if tensor.name == _OUTPUT or (tied and tensor.name == _EMBEDDINGS):
        name = mix.output
    elif layer and layer[2] in ("attn_v", "ffn_down") and _is_sensitive(int(layer[1]), layers):
        name = mix.sensitive
    if tensor.shape[0] % _BY_NAME[name].block_len:
        name = _FALLBACK.get(name, name)
    kind = _BY_NAME[name]
    return tensor.type if tensor.shape[0] % kind.block_len else kind


def _is_sensitive(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
