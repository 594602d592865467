"""The forward pass: against numpy for every family and type, and bit for bit against itself
however a prompt is cut, whoever its neighbours are and however many threads there are.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
import tiny_model
from engine_session import (
    ARGUMENT,
    F32,
    FULL,
    INT8,
    KV_F16,
    KV_F32,
    KV_Q8_0,
    STOPPED,
    Refused,
    Session,
    levels,
)
from gguf import GGMLQuantizationType, GGUFValueType

N = 100  # longer than a cache block and than the tiny models' windows
CASES = [("llama", kind) for kind in tiny_model.TYPES] + [
    (arch, kind) for arch in tiny_model.ARCHS[1:] for kind in ("Q8_0", "Q4_K")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def tokens_for(n_vocab: int, n: int = N, seed: int = 1) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, n_vocab, n)]


def tiny(folder: Path, arch: str, kind: str = "Q8_0", **options: Any) -> Path:
    name = "-".join([arch, kind, *(f"{k}{v}" for k, v in options.items())])
    path = folder / f"{name}.gguf"
    return path if path.exists() else tiny_model.build(arch, kind, **options).save(path)


def expected(path: Path, n: int = N) -> tuple[list[int], npt.NDArray[np.float32]]:
    model = reference.Reference(path)
    tokens = tokens_for(model.n_vocab, n)
    return tokens, model.logits(model.hidden(tokens))


# --- right ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "kind"), CASES)
def test_equals_numpy(native: Any, folder: Path, arch: str, kind: str) -> None:
    path = tiny(folder, arch, kind)
    tokens, want = expected(path)
    for cpu in levels(native):
        for act, limit in ((F32, 1e-6), (INT8, 0.05)):
            with Session(native, path, n_logit_rows=N, act=act, cpu=cpu, threads=2) as s:
                got = s.step(tokens)
            kl = reference.divergence(want, got)
            assert np.isfinite(got).all()
            if act == F32:
                assert kl.max() < limit, (cpu, kl.max())
            else:
                assert kl.mean() < limit, (cpu, kl.mean())


def test_reference_is_sensitive(folder: Path) -> None:
    """The comparison above would notice a wrong rotation, norm or window."""
    path = tiny(folder, "gemma3")
    model = reference.Reference(path)
    tokens = tokens_for(model.n_vocab)
    right = model.logits(model.hidden(tokens))
    for spoil in ({"window": 41}, {"eps": 3e-2}, {"n_rot": 126}):
        other = reference.Reference(path)
        for name, value in spoil.items():
            setattr(other, name, value)
        wrong = other.logits(other.hidden(tokens))
        assert reference.divergence(right, wrong).max() > 1e-6, spoil


def scaled(folder: Path, name: str, **keys: Any) -> Path:
    model = tiny_model.build("llama", "F32")
    for key, value in keys.items():
        kind = {str: GGUFValueType.STRING, float: GGUFValueType.FLOAT32, int: GGUFValueType.UINT32}
        model.kv[f"llama.rope.{key.replace('__', '.')}"] = (value, kind[type(value)])
    return model.save(folder / f"{name}.gguf")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("linear", {"scaling__type": "linear", "scaling__factor": 4.0}),
        ("plain-factor", {"scaling__factor": 2.0}),
        ("none", {"scaling__type": "none", "scaling__factor": 4.0}),
        (
            "yarn",
            {
                "scaling__type": "yarn",
                "scaling__factor": 8.0,
                "scaling__original_context_length": 64,
                "scaling__attn_factor": 0.9,
            },
        ),
        ("partial", {"dimension_count": 32}),
        ("base", {"freq_base": 500000.0}),
    ],
)
def test_rope_variants(native: Any, folder: Path, name: str, keys: dict[str, Any]) -> None:
    path = scaled(folder, f"rope-{name}", **keys)
    if name == "none":
        reference_keys = scaled(folder, "rope-none-reference")
        tokens, want = expected(reference_keys)
    else:
        tokens, want = expected(path)
    with Session(native, path, n_logit_rows=N, act=F32) as s:
        assert reference.divergence(want, s.step(tokens)).max() < 1e-6


def test_rope_divisors_biases_and_own_output(native: Any, folder: Path) -> None:
    model = tiny_model.build("llama", "F16", biases=True, tied=False, embd_type="Q6_K")
    divisors = np.linspace(1, 8, 32, dtype=np.float32)
    model.tensors["rope_freqs.weight"] = tiny_model.Tensor(divisors, GGMLQuantizationType.F32)
    path = model.save(folder / "divisors.gguf")
    tokens, want = expected(path)
    with Session(native, path, n_logit_rows=N, act=F32) as s:
        assert reference.divergence(want, s.step(tokens)).max() < 1e-6


# --- the same, bit for bit --------------------------------------------------------------------


def whole(native: Any, path: Path, tokens: list[int], **options: Any) -> npt.NDArray[np.float32]:
    with Session(native, path, n_logit_rows=len(tokens), **options) as s:
        return s.step(tokens)


def shallow(folder: Path, arch: str, kind: str) -> Path:
    """Two layers (in the windowed families: local ones) are enough where only bits are compared."""
    shape = replace(tiny_model.shape_of(arch), n_layer=2)
    return tiny(folder, arch, kind, shape=shape)


def same(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    return a.tobytes() == b.tobytes()


def test_a_cache_of_bytes_is_close_and_half_as_large(native: Any, folder: Path) -> None:
    path = tiny(folder, "llama", "Q8_0")
    tokens, want = expected(path)
    size = {}
    for kv in (KV_F16, KV_Q8_0):
        with Session(native, path, n_logit_rows=N, act=F32, kv=kv, threads=2) as s:
            kl = reference.divergence(want, s.step(tokens))
            size[kv] = native.lib.lp_engine_kv_bytes(s.engine)
        assert kl.max() < (1e-4 if kv == KV_F16 else 1e-2), kv
    assert kl.max() > 1e-9  # it is the other cache
    assert size[KV_Q8_0] * 64 == size[KV_F16] * 34


def test_a_cache_of_bytes_needs_whole_blocks(native: Any, folder: Path) -> None:
    shape = replace(tiny_model.shape_of("llama"), key_len=16)
    path = tiny(folder, "llama", "F16", shape=shape)
    with (
        pytest.raises(Refused, match="multiple of 32.*--kv-type f16"),
        Session(native, path, kv=KV_Q8_0),
    ):
        pass


@pytest.mark.parametrize(
    ("arch", "kind", "act", "kv"),
    [
        ("llama", "Q4_1", INT8, KV_F16),
        ("llama", "Q4_K", INT8, KV_F16),
        ("llama", "Q6_K", INT8, KV_F32),
        ("llama", "F16", INT8, KV_F16),
        ("qwen3", "Q5_0", INT8, KV_F16),
        ("gemma2", "Q8_0", INT8, KV_F16),
        ("gemma3", "Q5_K", INT8, KV_F16),
        ("llama", "BF16", INT8, KV_F16),
        ("qwen2", "Q8_0", INT8, KV_Q8_0),
        ("llama", "Q4_0", F32, KV_F32),
        ("gemma3", "Q2_K", F32, KV_F32),
    ],
)
def test_any_cut_gives_the_same_bits(
    native: Any, folder: Path, arch: str, kind: str, act: int, kv: int
) -> None:
    path = shallow(folder, arch, kind)
    rng = np.random.default_rng(5)
    for cpu in levels(native):
        # Past a block of the cache; the plain C level is slow, and has no tiles to get wrong.
        n, cuts_tried = (70, 1) if cpu == "ref" else (110, 3)
        tokens = tokens_for(384, n)
        options: dict[str, Any] = {"act": act, "kv": kv, "cpu": cpu}
        want = whole(native, path, tokens, **options)
        assert same(want, whole(native, path, tokens, threads=2, **options)), "two threads"
        if cpu != "ref":
            assert same(want, whole(native, path, tokens, threads=5, **options)), "five threads"
        with Session(native, path, n_logit_rows=n, **options) as s:
            singles = np.concatenate([s.step([t]) for t in tokens])
            assert same(want, singles), "single steps"
            for _ in range(cuts_tried):
                s.truncate(0)
                cuts = sorted({0, n, *(int(c) for c in rng.integers(1, n, 6))})
                parts = [s.step(tokens[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
                assert same(want, np.concatenate(parts)), cuts
            # Only the last row's logits, as a chat asks for.
            s.truncate(0)
            s.step(tokens[:-1], want=False)
            assert same(want[-1:], s.step(tokens[-1:]))


@pytest.mark.parametrize("arch", ["gemma3", "qwen2", "qwen3"])
def test_neighbours_and_rewinding_change_nothing(native: Any, folder: Path, arch: str) -> None:
    """Nor do rows beside them whose logits nobody wants."""
    path = shallow(folder, arch, "Q4_K")
    prompts = [tokens_for(384, n, seed) for seed, n in ((1, 70), (2, 40), (3, 90))]
    for cpu in levels(native):
        want = [whole(native, path, p, cpu=cpu) for p in prompts]
        rng = np.random.default_rng(9)
        with Session(native, path, n_ctx=192, n_seq=3, n_logit_rows=64, cpu=cpu, threads=2) as s:
            # Junk first, then back to the start: the blocks are used, out of order, with old data.
            for sequence in (2, 0, 1):
                s.step(tokens_for(384, 64, 7 + sequence), sequence)
            for sequence in (0, 2, 1):
                s.truncate(3 if sequence == 2 else 0, sequence)
            s.truncate(0, 2)
            at = [0, 0, 0]
            while any(at[i] < len(prompts[i]) for i in range(3)):
                rows = []
                for i in rng.permutation(3):
                    for _ in range(int(rng.integers(0, 12))):
                        if at[i] < len(prompts[i]):
                            rows.append((prompts[i][at[i]], at[i], int(i), rng.random() < 0.7))
                            at[i] += 1
                if rows:
                    wanting = [row for row in rows if row[3]]
                    for row, logits in zip(wanting, s.rows(rows), strict=True):
                        assert same(want[row[2]][row[1]], logits), (cpu, row)


LONG = 1150  # three stretches of attention (LP_ATTENTION_STRETCH)


def one_kv_head(folder: Path, arch: str) -> Path:
    """Few heads, so that more threads than heads share the stretches of the cache."""
    shape = replace(tiny_model.shape_of(arch), n_layer=2, n_kv=1, n_ctx=2 * LONG)
    if arch == "gemma3":  # layer 5 sees everything; the windows reach over a border of stretches
        shape = replace(shape, n_layer=6, window=600)
    return tiny(folder, arch, "Q8_0", shape=shape)


def test_a_long_context_equals_numpy(native: Any, folder: Path) -> None:
    path = one_kv_head(folder, "gemma3")
    tokens, want = expected(path, LONG)
    with Session(native, path, n_ctx=LONG, n_logit_rows=1, act=F32, threads=3) as s:
        for begin in range(0, LONG - 1, 500):
            s.step(tokens[begin : min(begin + 500, LONG - 1)], want=False)
        assert reference.divergence(want[-1:], s.step(tokens[-1:])).max() < 1e-6


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_threads_and_neighbours_of_a_long_context(native: Any, folder: Path, arch: str) -> None:
    """The last tokens one by one, some at a time, beside a short text, with any threads."""
    path = one_kv_head(folder, arch)
    tokens, n = tokens_for(384, LONG), 8
    for cpu in levels(native):
        if cpu == "ref":
            continue  # slow, and without tiles
        options: dict[str, Any] = {"n_ctx": LONG, "n_batch": LONG, "n_logit_rows": n, "cpu": cpu}
        with Session(native, path, **options) as s:
            s.step(tokens[:-n], want=False)
            want = s.step(tokens[-n:])
            s.truncate(0)
            data = [(t, i, 0, i >= LONG - n) for i, t in enumerate(tokens)]
            assert same(want, s.rows(data)), "in one step"
        for threads in (2, 5):
            with Session(native, path, n_seq=2, threads=threads, **options) as s:
                s.step(tokens[:-n], want=False)
                singles = np.concatenate([s.step([t]) for t in tokens[-n:]])
                assert same(want, singles), (cpu, threads, "single steps")
                s.truncate(LONG - n)
                assert same(want, s.step(tokens[-n:])), (cpu, threads, "together")
                s.truncate(LONG - n)
                at = LONG - n
                rows = [(tokens[at + i // 2], at + i // 2, 0, True) for i in range(0, 2 * n, 2)]
                for i in range(n):  # a short text's row between each two
                    rows.insert(2 * i, (tokens[i], i, 1, False))
                assert same(want, s.rows(rows)), (cpu, threads, "beside a short text")


# --- refusals and limits ----------------------------------------------------------------------


def refusal(s: Session, rows: list[tuple[int, int, int, bool]]) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        s.rows(rows)
    return caught.value.code, caught.value.text


def test_rows_that_cannot_be(native: Any, folder: Path) -> None:
    with Session(native, tiny(folder, "llama"), n_ctx=20, n_seq=2, n_batch=16) as s:
        before = s.step([1, 2, 3], want=False)
        assert before.shape[0] == 0
        assert refusal(s, [(1, 4, 0, True)]) == (ARGUMENT, "position 4 after 3 tokens")
        assert refusal(s, [(1, 2, 0, True)])[0] == ARGUMENT
        assert refusal(s, [(1, -1, 0, True)])[0] == ARGUMENT
        assert refusal(s, [(384, 3, 0, True)]) == (ARGUMENT, "token 384 of a vocabulary of 384")
        assert refusal(s, [(-1, 3, 0, True)])[0] == ARGUMENT
        assert refusal(s, [(1, 0, 2, True)]) == (ARGUMENT, "sequence 2 of 2")
        assert refusal(s, [(1, 0, -1, True)])[0] == ARGUMENT
        assert refusal(s, [(1, 3 + i, 0, True) for i in range(3)])[0] == ARGUMENT  # logit rows
        assert refusal(s, [(1, 3 + i, 0, False) for i in range(17)])[0] == ARGUMENT  # n_batch
        # A refused step leaves the sequences as they were, also the rows before the bad one.
        assert refusal(s, [(1, 3, 0, False), (1, 0, 1, False), (1, 5, 0, True)])[0] == ARGUMENT
        assert (s.length(0), s.length(1)) == (3, 0)
        s.step(list(range(16)), want=False)
        assert refusal(s, [(1, 19, 0, False), (1, 20, 0, True)]) == (
            FULL,
            "the context of 20 tokens is full",
        )
        assert s.length() == 19
        assert s.step([5]).shape == (1, 384)


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 0},
        {"n_ctx": 1 << 40},
        {"n_seq": 0},
        {"n_seq": 1 << 30},
        {"n_batch": 1 << 30},
        {"n_logit_rows": 1 << 30},
        {"threads": 0},
        {"threads": -1},
        {"threads": 1 << 20},
        {"act": 7},
        {"kv": 9},
        {"cpu": "z80"},
    ],
)
def test_parameters_that_cannot_be(native: Any, folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        Session(native, tiny(folder, "llama"), **options)
    assert caught.value.code == ARGUMENT
    assert caught.value.text


def test_a_context_beyond_all_memory_says_how_much(native: Any, folder: Path) -> None:
    with pytest.raises(
        Refused, match=r"a context of 2147483647 tokens for 64 sequences needs \d+ MiB"
    ):
        Session(native, tiny(folder, "llama"), n_ctx=(1 << 31) - 1, n_seq=64)


def test_stop_ends_a_step_and_forgets_it(native: Any, folder: Path) -> None:
    path = tiny(folder, "gemma3", "Q4_K")
    tokens = tokens_for(384, 250)
    with Session(native, path, threads=2, cpu="ref", n_logit_rows=1) as s:
        s.step(tokens[:10], want=False)
        stopper = threading.Timer(0.05, native.lib.lp_engine_stop, [s.engine])
        stopper.start()
        begun = time.monotonic()
        code, text = refusal(s, [(t, 10 + i, 0, False) for i, t in enumerate(tokens[10:250])])
        took = time.monotonic() - begun
        stopper.join()
        assert (code, text, s.length()) == (STOPPED, "stopped", 10)
        # The flag is spent; what was there is unharmed.
        assert same(s.step(tokens[10:11]), whole(native, path, tokens[:11], cpu="ref")[-1:])
        begun = time.monotonic()
        s.step(tokens[11:250], want=False)
        assert took < (time.monotonic() - begun)


def test_memory_is_touched_as_it_is_used(native: Any, folder: Path) -> None:
    """A large context costs address space, not memory, until it is filled."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    before = resident()
    with Session(native, tiny(folder, "llama"), n_ctx=1 << 20, n_seq=2) as s:
        assert native.lib.lp_engine_kv_bytes(s.engine) >= 2 << 30
        s.step(tokens_for(384, 64), want=False)
        assert resident() - before < 32 << 20
