"""Loading a model: what is described, and every hyperparameter and shape that cannot be.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from engine_session import FORMAT, UNSUPPORTED, Refused, Session
from gguf import GGMLQuantizationType as QType
from gguf import GGUFValueType as VType

SMALL = tiny_model.Shape(n_layer=2, n_embd=64, key_len=16, n_ff=96, n_ctx=64)


@cache
def base(arch: str) -> tiny_model.Tiny:
    shape = replace(SMALL, n_kv=1, key_len=32, window=8) if arch == "gemma3" else SMALL
    return tiny_model.build(arch, "Q8_0", shape=shape)


def small(arch: str, path: Path, spoil: Callable[[tiny_model.Tiny], None]) -> Path:
    b = base(arch)
    tensors = {name: tiny_model.Tensor(t.data, t.type) for name, t in b.tensors.items()}
    model = tiny_model.Tiny(arch, dict(b.kv), tensors)
    spoil(model)
    return model.save(path)


def run_some(native: Any, path: Path) -> None:
    with Session(native, path, n_ctx=16, n_logit_rows=1) as s:
        s.step([1, 2, 3], want=False)
        s.step([4])


@pytest.mark.parametrize("arch", tiny_model.ARCHS)
def test_describe(native: Any, tmp_path: Path, arch: str) -> None:
    shape = tiny_model.shape_of(arch)
    model = tiny_model.build(arch, "Q8_0")
    path = model.save(tmp_path / "tiny.gguf")
    with Session(native, path) as s:
        info = native.lib.lp_model_describe(s.model)
        assert native.ffi.string(info.arch).decode() == arch
        assert (info.n_layer, info.n_embd, info.n_head) == (
            shape.n_layer,
            shape.n_embd,
            shape.n_head,
        )
        assert (info.n_vocab, info.n_ctx_train) == (448 if arch.startswith("g") else 384, 512)
        assert info.kv_bytes_per_token == shape.n_layer * shape.n_kv * shape.key_len * 2 * 2
        n_q8 = sum(t.data.size for t in model.tensors.values() if t.type == QType.Q8_0)
        n_f32 = sum(t.data.size for t in model.tensors.values() if t.type == QType.F32)
        assert info.n_params == n_q8 // 34 * 32 + n_f32
        assert info.weight_bytes == n_q8 + 4 * n_f32


def test_unknown_architecture_is_named_with_those_known(native: Any, tmp_path: Path) -> None:
    model = tiny_model.build("llama", "Q8_0", shape=SMALL)
    model.arch = "mamba9\x1b"
    with pytest.raises(Refused) as e:
        Session(native, model.save(tmp_path / "a.gguf"))
    assert e.value.code == UNSUPPORTED
    assert "'mamba9?' is not supported" in e.value.text
    assert all(name in e.value.text for name in tiny_model.ARCHS)


def test_experts_and_strange_scaling_are_named(native: Any, tmp_path: Path) -> None:
    def experts(m: tiny_model.Tiny) -> None:
        m.kv["llama.expert_count"] = (8, VType.UINT32)

    def longrope(m: tiny_model.Tiny) -> None:
        m.kv["llama.rope.scaling.type"] = ("longrope", VType.STRING)

    for spoil, text in ((experts, "8 experts"), (longrope, "'longrope'")):
        with pytest.raises(Refused, match=text) as e:
            Session(native, small("llama", tmp_path / "a.gguf", spoil))
        assert e.value.code == UNSUPPORTED


VALUES: list[tuple[Any, ...] | None] = [
    None,  # absent
    (0, VType.UINT32),
    (1, VType.UINT32),
    (3, VType.UINT32),
    ((1 << 31) - 1, VType.UINT32),
    ((1 << 32) - 1, VType.UINT32),
    (-1, VType.INT32),
    (1 << 62, VType.UINT64),
    (math.inf, VType.FLOAT32),
    (math.nan, VType.FLOAT32),
    (-1.0, VType.FLOAT32),
    (0.0, VType.FLOAT32),
    (1e-45, VType.FLOAT32),
    (1e30, VType.FLOAT32),
    (True, VType.BOOL),
    ("text", VType.STRING),
    ([1, 2], VType.ARRAY, VType.UINT32),
    ([0, 0], VType.ARRAY, VType.UINT32),
    ([1 << 30, 1 << 30], VType.ARRAY, VType.UINT32),
    ([1, 2, 3], VType.ARRAY, VType.UINT32),
    ([True, False], VType.ARRAY, VType.BOOL),
    ([1.5], VType.ARRAY, VType.FLOAT32),
]
KEYS = (
    "block_count context_length embedding_length feed_forward_length attention.head_count "
    "attention.head_count_kv attention.key_length attention.value_length attention.scale "
    "attention.layer_norm_rms_epsilon attention.sliding_window attention.sliding_window_pattern "
    "rope.dimension_count rope.freq_base rope.freq_base_swa rope.scaling.type rope.scaling.factor "
    "rope.scaling.original_context_length rope.scaling.attn_factor rope.scale_linear "
    "attn_logit_softcapping final_logit_softcapping expert_count vocab_size"
).split()


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
@pytest.mark.parametrize("key", KEYS)
def test_hostile_hyperparameters(native: Any, tmp_path: Path, arch: str, key: str) -> None:
    """Each is refused in one line, or is usable: then four tokens run."""
    live = native.lib.lp_alloc_live()
    refused = 0
    for i, value in enumerate(VALUES):

        def spoil(m: tiny_model.Tiny, value: Any = value) -> None:
            m.kv.pop(f"{arch}.{key}", None)
            if value is not None:
                m.kv[f"{arch}.{key}"] = value

        path = small(arch, tmp_path / f"{i}.gguf", spoil)
        try:
            run_some(native, path)
        except Refused as error:
            refused += 1
            assert error.text and "\n" not in error.text
        path.unlink()
        assert native.lib.lp_alloc_live() == live, value
    foreign = arch == "llama" and any(w in key for w in ("sliding", "swa", "softcapping"))
    unread = key in ("vocab_size", "rope.scaling.original_context_length")  # the latter: yarn only
    assert bool(refused) == (not foreign and not unread)


@pytest.mark.parametrize(
    "name",
    ["factor", "yarn_ext_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_log_multiplier"],
)
def test_hostile_yarn(native: Any, tmp_path: Path, name: str) -> None:
    for value in (0.0, 1e-45, 1.0, 1e30, -1.0, math.inf, math.nan):

        def spoil(m: tiny_model.Tiny, value: float = value) -> None:
            m.kv["llama.rope.scaling.type"] = ("yarn", VType.STRING)
            m.kv["llama.rope.scaling.factor"] = (4.0, VType.FLOAT32)
            m.kv[f"llama.rope.scaling.{name}"] = (value, VType.FLOAT32)

        try:
            run_some(native, small("llama", tmp_path / "a.gguf", spoil))
        except Refused as error:
            assert error.code == FORMAT and error.text


def test_rope_base_one_with_yarn(native: Any, tmp_path: Path) -> None:
    def spoil(m: tiny_model.Tiny) -> None:
        m.kv["llama.rope.scaling.type"] = ("yarn", VType.STRING)
        m.kv["llama.rope.scaling.factor"] = (4.0, VType.FLOAT32)
        m.kv["llama.rope.freq_base"] = (1.0, VType.FLOAT32)

    run_some(native, small("llama", tmp_path / "a.gguf", spoil))


def names_of(arch: str) -> list[str]:
    return sorted(base(arch).tensors)


@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_every_tensor_is_needed_and_measured(native: Any, tmp_path: Path, arch: str) -> None:
    path = tmp_path / "a.gguf"
    optional = {"output.weight"}
    for name in names_of(arch):
        if name.startswith("blk.0."):
            continue  # the same as blk.1

        def drop(m: tiny_model.Tiny, name: str = name) -> None:
            del m.tensors[name]

        def longer(m: tiny_model.Tiny, name: str = name) -> None:
            t = m.tensors[name]
            t.data = np.concatenate([t.data, t.data])

        def wider(m: tiny_model.Tiny, name: str = name) -> None:
            t = m.tensors[name]
            t.data = np.concatenate([t.data, t.data], axis=-1)

        def deeper(m: tiny_model.Tiny, name: str = name) -> None:
            t = m.tensors[name]
            t.data = np.stack([np.atleast_2d(t.data)] * 2)

        if name not in optional:
            with pytest.raises(Refused) as e:
                Session(native, small(arch, path, drop))
            assert (e.value.code, e.value.text) == (FORMAT, f"tensor {name} is missing")
        for spoil in (longer, wider, deeper):
            if name == "token_embd.weight" and spoil is longer and arch == "gemma3":
                continue  # a larger vocabulary is a vocabulary
            with pytest.raises(Refused) as e:
                Session(native, small(arch, path, spoil))
            assert e.value.code == FORMAT
            assert "expected {" in e.value.text or "rows" in e.value.text, (name, e.value.text)


def test_types_a_role_cannot_have(native: Any, tmp_path: Path) -> None:
    def f16_norm(m: tiny_model.Tiny) -> None:
        t = m.tensors["output_norm.weight"]
        m.tensors["output_norm.weight"] = tiny_model.Tensor(t.data.astype(np.float16), QType.F16)

    def iq(m: tiny_model.Tiny) -> None:
        data = np.zeros((64, 66), np.uint8)
        m.tensors["blk.1.attn_q.weight"] = tiny_model.Tensor(data, QType.IQ2_XXS)

    for spoil, text in ((f16_norm, "type F16, expected F32"), (iq, "type IQ2_XXS, which is not")):
        with pytest.raises(Refused, match=text) as e:
            Session(native, small("llama", tmp_path / "a.gguf", spoil))
        assert e.value.code == UNSUPPORTED


def test_tensors_nobody_asks_for_are_left_alone(native: Any, tmp_path: Path) -> None:
    def more(m: tiny_model.Tiny) -> None:
        m.tensors["blk.7.strange.weight"] = tiny_model.Tensor(np.ones(4, np.float32), QType.F32)

    run_some(native, small("llama", tmp_path / "a.gguf", more))


def test_weights_of_nan_and_infinity_do_no_harm(native: Any, tmp_path: Path) -> None:
    for value in (np.nan, np.inf, -np.inf, 3e38):
        for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.1.ffn_norm.weight"):

            def spoil(m: tiny_model.Tiny, name: str = name, value: float = value) -> None:
                m.tensors[name].data = np.full_like(m.tensors[name].data, value)

            run_some(native, small("llama", tmp_path / "a.gguf", spoil))


def test_layers_may_differ(native: Any, tmp_path: Path) -> None:
    """Per-layer arrays of heads and widths are taken per layer."""
    import reference

    shape = tiny_model.Shape(n_layer=2, n_head=4, n_kv=2)
    model = tiny_model.build("llama", "F32", shape=shape)
    other = tiny_model.build("llama", "F32", shape=tiny_model.Shape(n_kv=4, n_ff=256), seed=3)
    for name, tensor in other.tensors.items():
        if name.startswith("blk.1."):
            model.tensors[name] = tensor
    u32 = VType.UINT32
    model.kv["llama.attention.head_count_kv"] = ([2, 4], VType.ARRAY, u32)
    model.kv["llama.feed_forward_length"] = ([512, 256], VType.ARRAY, u32)
    path = model.save(tmp_path / "a.gguf")
    model.kv["llama.attention.head_count_kv"] = (4, u32)
    model.kv["llama.feed_forward_length"] = (512, u32)
    # For numpy, layer 0's kv heads are doubled so that all layers have four.
    for part in ("attn_k", "attn_v"):
        t = model.tensors[f"blk.0.{part}.weight"]
        t.data = np.repeat(t.data.reshape(2, 64, -1), 2, axis=0).reshape(256, -1)
    want = reference.Reference(model.save(tmp_path / "b.gguf"))
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    with Session(native, path, n_logit_rows=8, act=1) as s:
        got = s.step(tokens)
    assert reference.divergence(want.logits(want.hidden(tokens)), got).max() < 1e-6
