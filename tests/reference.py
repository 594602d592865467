"""The forward pass in numpy, float32 over dequantized weights: what the engine is held against.

Written from the descriptions of the families, apart from the C code: it reads the GGUF with the
`gguf` package, dequantizes with `gguf.quants`, and computes whole sequences at once (T x T scores),
so it shares neither order of additions, cache, blocks nor chunks with the engine.

    model = Reference(path)
    hidden = model.hidden(tokens)            # (T, embd), after the last norm
    logits = model.logits(hidden[a:b])       # (b - a, vocab)

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

NEOX = {"qwen2", "qwen3", "gemma", "gemma2", "gemma3"}
GEMMA = {"gemma", "gemma2", "gemma3"}


class Reference:
    def __init__(self, path: Path | str) -> None:
        import gguf

        self.weights: dict[str, Array] = {}  # dequantized once
        self.reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in self.reader.tensors}
        self.arch: str = self.field("general.architecture")
        self.n_layer = int(self.key("block_count"))
        self.n_embd = int(self.key("embedding_length"))
        self.n_head = int(self.key("attention.head_count"))
        self.n_kv = int(self.key("attention.head_count_kv", self.n_head))
        self.key_len = int(self.key("attention.key_length", self.n_embd // self.n_head))
        self.value_len = int(self.key("attention.value_length", self.key_len))
        self.n_rot = int(self.key("rope.dimension_count", self.key_len))
        self.eps = float(self.key("attention.layer_norm_rms_epsilon"))
        self.window = int(self.key("attention.sliding_window", 0)) if self.arch in GEMMA else 0
        self.attn_cap = float(self.key("attn_logit_softcapping", 0.0))
        self.final_cap = float(self.key("final_logit_softcapping", 0.0))
        self.embd = self.weight("token_embd.weight")
        self.out = self.weight("output.weight") if "output.weight" in self.tensors else self.embd
        self.n_vocab = self.embd.shape[0]

    def field(self, name: str, default: Any = None) -> Any:
        field = self.reader.get_field(name)
        return default if field is None else field.contents()

    def key(self, name: str, default: Any = None) -> Any:
        return self.field(f"{self.arch}.{name}", default)

    def weight(self, name: str) -> Array:
        from gguf import quants

        if name not in self.weights:
            t = self.tensors[name]
            values = quants.dequantize(t.data, t.tensor_type)
            self.weights[name] = np.asarray(values, dtype=np.float32)
        return self.weights[name]

    def maybe(self, name: str) -> Array | None:
        return self.weight(name) if name in self.tensors else None

    # --- parts -----------------------------------------------------------------------------

    def norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps))
        return np.asarray(x / scale * self.weight(name), np.float32)

    def linear(self, x: Array, name: str) -> Array:
        y = x @ self.weight(f"{name}.weight").T
        bias = self.maybe(f"{name}.bias")
        return y if bias is None else y + bias

    def is_local(self, layer: int) -> bool:
        if not self.window or self.arch not in ("gemma2", "gemma3"):
            return False
        period = 6 if self.arch == "gemma3" else 2
        return layer % period < period - 1

    def angles(self, n: int, local: bool) -> tuple[Array, Array]:
        """cos and sin, each (n, n_rot / 2)."""
        i = np.arange(self.n_rot // 2, dtype=np.float64)
        base = float(self.key("rope.freq_base", 10000.0))
        kind = self.key("rope.scaling.type", "linear")
        factor = float(self.key("rope.scaling.factor", 0.0)) or 1.0
        magnitude = float(self.key("rope.scaling.attn_factor", 1.0))
        if local and self.arch == "gemma3":
            base, kind, factor, magnitude = 10000.0, "none", 1.0, 1.0
        theta = base ** (-2 * i / self.n_rot)
        if "rope_freqs.weight" in self.tensors:
            theta = theta / self.weight("rope_freqs.weight").astype(np.float64)
        if kind == "linear":
            theta = theta / factor
        elif kind == "yarn":
            original = self.key("rope.scaling.original_context_length", self.key("context_length"))
            low, high = (
                self.n_rot * math.log(original / (2 * math.pi * turns)) / (2 * math.log(base))
                for turns in (32.0, 1.0)
            )
            low = min(max(math.floor(low), 0), self.n_rot - 1)
            high = min(max(math.ceil(high), 0), self.n_rot - 1)
            ramp = np.clip((i - low) / max(0.001, high - low), 0, 1)
            theta = theta / factor * ramp + theta * (1 - ramp)
            magnitude *= 1 + 0.1 * math.log(factor)
        turn = np.arange(n, dtype=np.float64)[:, None] * theta
        return (
            (np.cos(turn) * magnitude).astype(np.float32),
            (np.sin(turn) * magnitude).astype(np.float32),
        )

    def rotate(self, x: Array, cos: Array, sin: Array) -> Array:
        """x: (T, heads, head length)."""
        out = x.copy()
        half = self.n_rot // 2
        if self.arch in NEOX:
            first, second = slice(0, half), slice(half, self.n_rot)
        else:
            first, second = slice(0, self.n_rot, 2), slice(1, self.n_rot, 2)
        a, b, c, s = x[..., first], x[..., second], cos[:, None], sin[:, None]
        out[..., first] = a * c - b * s
        out[..., second] = a * s + b * c
        return out

    def attention(self, h: Array, layer: int) -> Array:
        p, t = f"blk.{layer}.", h.shape[0]
        q = self.linear(h, p + "attn_q").reshape(t, self.n_head, self.key_len)
        k = self.linear(h, p + "attn_k").reshape(t, self.n_kv, self.key_len)
        v = self.linear(h, p + "attn_v").reshape(t, self.n_kv, self.value_len)
        if p + "attn_q_norm.weight" in self.tensors:
            q = self.norm(q, p + "attn_q_norm.weight")
            k = self.norm(k, p + "attn_k_norm.weight")
        local = self.is_local(layer)
        cos, sin = self.angles(t, local)
        q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        back = np.arange(t)[:, None] - np.arange(t)[None, :]
        hidden = back < 0
        if local:
            hidden |= back >= self.window
        mask = np.where(hidden, np.float32(-np.inf), np.float32(0))
        out = np.empty((t, self.n_head, self.value_len), np.float32)
        for head in range(self.n_head):
            other = head // (self.n_head // self.n_kv)
            score = q[:, head] @ k[:, other].T * np.float32(1 / math.sqrt(self.key_len))
            if self.attn_cap:
                score = np.float32(self.attn_cap) * np.tanh(score / np.float32(self.attn_cap))
            score += mask
            score -= score.max(axis=1, keepdims=True)
            np.exp(score, out=score)
            out[:, head] = score @ v[:, other] / score.sum(axis=1, keepdims=True)
        return self.linear(out.reshape(t, -1), p + "attn_output")

    def feed_forward(self, h: Array, layer: int) -> Array:
        p = f"blk.{layer}."
        gate, up = self.linear(h, p + "ffn_gate"), self.linear(h, p + "ffn_up")
        if self.arch in GEMMA:
            inner = np.float32(math.sqrt(2 / math.pi)) * (
                gate + np.float32(0.044715) * (gate * gate * gate)
            )
            act = np.float32(0.5) * gate * (1 + np.tanh(inner))
        else:
            act = gate / (1 + np.exp(-gate))
        return self.linear(np.asarray(act * up, np.float32), p + "ffn_down")

    # --- whole -----------------------------------------------------------------------------

    def hidden(self, tokens: list[int] | npt.NDArray[np.int32]) -> Array:
        x = self.embd[np.asarray(tokens)].copy()
        if self.arch in GEMMA:
            x *= np.float32(math.sqrt(self.n_embd))
        for layer in range(self.n_layer):
            p = f"blk.{layer}."
            for norm, part, post in (
                ("attn_norm", self.attention, "post_attention_norm"),
                ("ffn_norm", self.feed_forward, "post_ffw_norm"),
            ):
                y = part(self.norm(x, f"{p}{norm}.weight"), layer)
                if f"{p}{post}.weight" in self.tensors:
                    y = self.norm(y, f"{p}{post}.weight")
                x = x + y
        return self.norm(x, "output_norm.weight")

    def logits(self, hidden: Array) -> Array:
        y = hidden @ self.out.T
        if self.final_cap:
            y = np.float32(self.final_cap) * np.tanh(y / np.float32(self.final_cap))
        return y


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def probabilities(logits: Array) -> Array:
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True), np.float32)


def divergence(reference: Array, other: Array, p: Array | None = None) -> npt.NDArray[np.float64]:
    """KL(reference || other) per row of logits, in nats; p = probabilities(reference).

    With d = reference - other,  KL = sum p d + ln(sum p exp(-d)).  The difference of the logits
    is taken first, so that float32 resolves divergences far below 1e-6 (the usual difference of
    two log-probabilities would not), and nothing of the vocabulary's size is made in double.
    """
    p = probabilities(reference) if p is None else p
    d = reference - other
    d -= d[np.arange(len(d)), reference.argmax(axis=-1)][:, None]  # keeps exp(-d) near 1
    drift = (p * d).sum(axis=-1, dtype=np.float64)
    return np.asarray(drift + np.log1p((p * np.expm1(-d)).sum(axis=-1, dtype=np.float64)))
