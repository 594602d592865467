"""engine/kv_file.c on tiny models: the cache as bytes and back, and every way such bytes can be wrong.

What a loaded prefix must give is what evaluating it gives, bit for bit. The layout is read here by
its description in kv_file.h, apart from the code that writes it.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from engine_session import (
    ARGUMENT,
    F32,
    FORMAT,
    INT8,
    KV_F16,
    KV_F32,
    UNSUPPORTED,
    Refused,
    Session,
    levels,
)
from test_scheduler import LENGTH, Job, greedy, run, step

SHA256 = bytes(range(32))
MODEL_BYTES = 123_456_789_012
HEADER = struct.Struct("<8s4I")  # what a test needs to find its way; see kv_file.h
IDS = 112 + 2 * 12  # where the token ids of a model of two layers begin
TEXT = "You are a helpful assistant. Once upon a time there was a small model that said little."


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build("llama", "Q8_0", seed=4).save(
        tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    )


def write(s: Session, tokens: list[int], sequence: int = 0) -> bytes:
    """The sequence's first positions as a file that belongs to SHA256 and MODEL_BYTES."""
    ffi, lib = s.ffi, s.lib
    out = ffi.new("lp_buf *")
    try:
        s.check(lib.lp_kv_file_write(out, s.engine, sequence, tokens, len(tokens), s.err))
        return seal(s, bytes(ffi.buffer(out.data, out.len)))
    finally:
        lib.lp_buf_free(out)


def seal(s: Session, data: bytes) -> bytes:
    changed = bytearray(data)
    s.lib.lp_kv_file_seal(s.ffi.from_buffer(changed), len(changed), SHA256, MODEL_BYTES)
    return bytes(changed)


def evaluated(native: Any, path: Path, tokens: list[int], **options: Any) -> bytes:
    with Session(native, path, **options) as s:
        per_step = options.get("n_batch") or len(tokens)
        for begin in range(0, len(tokens), per_step):
            s.step(tokens[begin : begin + per_step], want=False)
        return write(s, tokens)


class File:
    """Bytes opened as an lp_kv_file; the memory ends where they do."""

    def __init__(self, s: Session, data: bytes) -> None:
        self.s = s
        self.block = s.ffi.new("uint8_t[]", max(len(data), 1))
        s.ffi.memmove(self.block, data, len(data))
        self.handle = s.ffi.new("lp_kv_file *")
        s.check(s.lib.lp_kv_file_open(self.handle, self.block, len(data), s.err))

    def check(self) -> None:
        self.s.check(self.s.lib.lp_kv_file_check(self.handle, self.s.err))

    def fits(self, sha256: bytes = SHA256, size: int = MODEL_BYTES) -> None:
        s = self.s
        s.check(s.lib.lp_kv_file_fits(self.handle, s.engine, sha256, size, s.err))

    def load(self, n: int, sequence: int = 0) -> None:
        s = self.s
        s.check(s.lib.lp_kv_file_load(self.handle, s.engine, sequence, n, s.err))

    def common(self, tokens: list[int]) -> int:
        return int(self.s.lib.lp_kv_file_common(self.handle, tokens, len(tokens)))


def usable(s: Session, data: bytes) -> bool:
    """Whether a runtime would use these bytes; if so, it does, and steps on."""
    try:
        file = File(s, data)
        file.fits()
        file.load(int(file.handle.n_tokens))
    except Refused:
        return False
    s.step([5])
    return True


# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
@pytest.mark.parametrize(("act", "kv"), [(INT8, KV_F16), (F32, KV_F32)])
def test_a_loaded_prefix_is_the_evaluated_one(
    native: Any, tmp_path: Path, arch: str, act: int, kv: int
) -> None:
    model = tiny_model.build(arch, "Q4_K", seed=2).save(tmp_path / "m.gguf")
    options: dict[str, Any] = {"n_ctx": 256, "n_seq": 2, "act": act, "kv": kv, "threads": 2}
    with Session(native, model, **options) as s:
        tokens = (s.tokenize(TEXT) * 5)[:150]
        s.step(tokens, want=False)
        data = write(s, tokens)
        s.step([7, 8])  # what comes after it is no part of it
        assert write(s, tokens) == data
    more = [9, 10, 11]
    with Session(native, model, **options, n_logit_rows=8) as s:
        file = File(s, data)
        file.fits()
        assert file.handle.n_tokens == len(tokens)
        for n in (len(tokens), 1, 63, 64, 65, 128, 149):
            s.truncate(0, 0)
            s.step(tokens[:n], want=False)
            want = s.step(more)
            s.step([3] * 70, sequence=1, want=False)  # what it held before is forgotten
            file.load(n, 1)
            assert s.length(1) == n
            assert np.array_equal(s.step(more, 1), want), n
            s.truncate(0, 1)


def test_the_layout_is_the_described_one(native: Any, path: Path) -> None:
    """Positions in order, whatever blocks they lie in: two sequences take turns."""
    with Session(native, path, n_ctx=192, n_seq=2) as s:
        tokens = (s.tokenize(TEXT) * 5)[:140]
        for begin in range(0, len(tokens), 20):
            s.step(tokens[begin : begin + 20], 0, want=False)
            s.step([4] * 20, 1, want=False)
        mixed = write(s, tokens)
    data = evaluated(native, path, tokens, n_ctx=160)
    assert mixed == data
    magic, form, version, low, high = HEADER.unpack_from(data)
    assert (magic, form, version, low, high) == (b"LPKVDATA", 2, 5, len(data), 0)
    assert data[32:72] == SHA256 + struct.pack("<Q", MODEL_BYTES)
    act, kv, layers, vocab, n, zero = struct.unpack_from("<6I", data, 72)
    assert (act, kv, layers, vocab, n, zero) == (INT8, KV_F16, 2, 384, len(tokens), 0)
    assert data[96:112].rstrip(b"\0").decode() == levels(native)[0]
    # 2 kv heads of 64 halves; every position from 0 on
    assert struct.unpack_from("<6I", data, 112) == (256, 256, 0, 256, 256, 0)
    assert list(struct.unpack_from(f"<{n}i", data, IDS)) == tokens
    begin = -(-(IDS + 4 * n) // 64) * 64
    assert len(data) == begin + 4 * 256 * n
    # The first n - 1 positions do not depend on the last: a shorter file is this one's beginning.
    shorter = evaluated(native, path, tokens[:-1], n_ctx=160)
    other = -(-(IDS + 4 * (n - 1)) // 64) * 64
    for part in range(4):
        assert (
            shorter[other + part * 256 * (n - 1) :][: 256 * (n - 1)]
            == data[begin + part * 256 * n :][: 256 * (n - 1)]
        )


def test_the_same_input_and_path_give_the_same_bytes(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        tokens = s.tokenize(TEXT)
    first = evaluated(native, path, tokens)
    assert evaluated(native, path, tokens, n_batch=7, threads=2, n_ctx=64) == first
    # Levels with fma agree bit for bit: only the name and the checksum differ.
    fused = [n for n in levels(native) if n not in ("ref", "sse2", "avx")]
    for level in fused:
        data = evaluated(native, path, tokens, cpu=level)
        assert data[96:112].rstrip(b"\0").decode() == level
        assert data[112:] == first[112:], level


# --- what does not fit ------------------------------------------------------------------------


def test_only_for_the_same_weights_and_modes(native: Any, path: Path, tmp_path: Path) -> None:
    with Session(native, path) as s:
        tokens = s.tokenize(TEXT)
        s.step(tokens, want=False)
        data = write(s, tokens)
        file = File(s, data)
        file.fits()
        for sha256, size in (
            (bytes(32), MODEL_BYTES),
            (SHA256[:31] + b"\0", MODEL_BYTES),
            (SHA256, MODEL_BYTES - 1),
        ):
            with pytest.raises(Refused, match="other weights") as error:
                file.fits(sha256, size)
            assert error.value.code == ARGUMENT
    shape = tiny_model.Shape(n_layer=3)
    three = tiny_model.build("llama", "Q8_0", seed=4, shape=shape).save(tmp_path / "3.gguf")
    wide = tiny_model.build("llama", "Q8_0", shape=tiny_model.Shape(n_kv=4)).save(tmp_path / "4")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (path, {"act": F32, "kv": KV_F16}, "--act"),
        (path, {"kv": KV_F32}, "--kv-type"),
        (three, {}, "another shape"),
        (wide, {}, "another shape"),
    ]
    for model, options, what in cases:
        with (
            Session(native, model, **options) as s,
            pytest.raises(Refused, match=what),
        ):
            File(s, data).fits()


def test_loading_is_refused_outside_of_what_there_is(native: Any, path: Path) -> None:
    with Session(native, path, n_ctx=16, n_seq=2) as small:
        tokens = (small.tokenize(TEXT) * 2)[:40]
        data = evaluated(native, path, tokens)
        file = File(small, data)
        file.load(16, 1)
        assert small.length(1) == 16
        for n, sequence in ((17, 0), (41, 0), (2**63, 0), (1, 2), (1, -1)):
            with pytest.raises(Refused) as error:
                file.load(n, sequence)
            assert error.value.code == ARGUMENT
        assert (small.length(0), small.length(1)) == (0, 16)
        small.step(tokens[:8], want=False)
        for n in (0, 9):
            with pytest.raises(Refused):
                write(small, tokens[:n])


def test_common_prefix(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        file = File(s, evaluated(native, path, [5, 6, 7, 8]))
        cases: list[tuple[list[int], int]] = [
            ([], 0), ([5], 1), ([6], 0), ([5, 6, 7, 8], 4), ([5, 6, 7, 8, 9], 4), ([5, 6, 8, 8], 2),
        ]  # fmt: skip
        for tokens, n in cases:
            assert file.common(tokens) == n
        # Three of fifty tokens are worth reading the file for the checksum, two are not.
        file = File(s, evaluated(native, path, [7] * 50))
        assert [file.common([7] * n + [8]) for n in (1, 2, 3, 4)] == [0, 0, 3, 4]


# --- hostile bytes ----------------------------------------------------------------------------


def test_every_byte_counts(native: Any, path: Path) -> None:
    """A changed byte anywhere, a file cut or lengthened anywhere: refused, at the latest by the
    checksum, and the sequence stays as it was."""
    with Session(native, path) as s:
        tokens = [5, 6, 7, 8, 9]
        data = evaluated(native, path, tokens)
        assert usable(s, data) and 5000 < len(data) < 8192
        s.truncate(0)
        s.step([1, 2, 3], want=False)
        rng = random.Random(1)
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= rng.randrange(1, 256)
            assert not usable(s, bytes(changed)), at
            assert not usable(s, data[:at]), at
        for extra in (1, 63, 64, 4096):
            assert not usable(s, data + bytes(extra))
        assert s.length() == 3


HOSTILE = [0, 1, 2, 3, 64, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def test_header_fields_with_a_right_checksum(native: Any, path: Path) -> None:
    """Who made the bytes also made the checksum: each number is checked for itself."""
    with Session(native, path) as s:
        data = evaluated(native, path, [5, 6, 7, 8, 9])
        for at in [8, 12, 16, 20, *range(72, 112, 4), *range(112, IDS, 4)]:
            for value in HOSTILE:
                changed = data[:at] + struct.pack("<I", value) + data[at + 4 :]
                if changed != data:
                    expected = 96 <= at < 112 and changed[96:112] != bytes(16)
                    got = usable(s, seal(s, changed))
                    assert not got or expected, (at, value)
                    s.truncate(0)
        for level in (b"\0" * 16, b"avx 2".ljust(16, b"\0"), b"\xff".ljust(16, b"\0"),
                      b"avx2\0\0x".ljust(16, b"\0"), b"\x1b[2J".ljust(16, b"\0")):  # fmt: skip
            assert not usable(s, seal(s, data[:96] + level + data[112:]))
        assert usable(s, seal(s, data[:96] + b"x" * 16 + data[112:]))


def test_ids_outside_the_vocabulary(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        data = evaluated(native, path, [5, 6, 7, 8, 9])
        for i in range(5):
            for value in (-1, 384, 2**31 - 1, -(2**31)):
                changed = bytearray(data)
                struct.pack_into("<i", changed, IDS + 4 * i, value)
                with pytest.raises(Refused, match="a token that the vocabulary") as error:
                    File(s, seal(s, bytes(changed)))
                assert error.value.code == FORMAT
            struct.pack_into("<i", changed, IDS + 4 * i, 383)
            assert usable(s, seal(s, bytes(changed)))
            s.truncate(0)


def test_random_mutations_with_a_right_checksum(native: Any, path: Path) -> None:
    """Whatever passes is loaded and used; keys and values may be anything, NaN too."""
    with Session(native, path) as s:
        data = evaluated(native, path, [5, 6, 7, 8, 9])
        rng, used = random.Random(3), 0
        for turn in range(1500):
            changed = bytearray(data)
            limit = IDS + 32 if turn % 2 else len(data)
            for _ in range(rng.randrange(1, 6)):
                changed[rng.randrange(limit)] = rng.choice(
                    [0, 1, 127, 128, 255, rng.randrange(256)]
                )
            used += usable(s, seal(s, bytes(changed)))
            s.truncate(0)
        assert used > 300
        begin = -(-(IDS + 20) // 64) * 64
        for filler in (b"\xff", b"\x00\x7c", b"\x00\x7e"):  # f16 NaN, infinity, quiet NaN
            bad = data[:begin] + (filler * len(data))[: len(data) - begin]
            assert usable(s, seal(s, bad))
            s.truncate(0)


def test_other_versions_are_named(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        data = evaluated(native, path, [5, 6])
        for at, what in ((8, "another format"), (12, "another version of the engine")):
            with pytest.raises(Refused, match=what) as error:
                File(s, data[:at] + b"\x63\0\0\0" + data[at + 4 :])
            assert error.value.code == UNSUPPORTED


# --- the scheduler ----------------------------------------------------------------------------

GREEDY = {"max_tokens": 12, "ignore_end": True}


def prepared(s: Session, data: bytes) -> File:
    """The scheduler of s starts from these bytes; keep the result while it may."""
    file = File(s, data)
    file.fits()
    s.lib.lp_scheduler_prepare(s.open_scheduler(), file.handle)
    return file


def test_only_the_rest_of_a_prompt_is_evaluated(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        prefix, rest = s.tokenize(TEXT), s.tokenize(" What is the capital")
    data = evaluated(native, path, prefix)
    n = len(prefix)
    cases = [
        (prefix + rest, n),
        (prefix, n - 1),  # the last token's logits are needed
        (prefix[:20] + rest, 20),
        (prefix[:5], 4),
        ([3, *prefix], 0),
    ]
    for prompt, cached in cases:
        for options in (GREEDY, {**GREEDY, "temp": 1.0, "seed": 7, "top_k": 0}):
            answers = []
            for use in (False, True):
                with Session(native, path, n_batch=16) as s:
                    keep = prepared(s, data) if use else None
                    job = Job(s, prompt, dict(options)).submit()
                    run(s)
                    assert job.ends == [(LENGTH, None)]
                    assert job.stats.cached_tokens == (cached if use else 0)
                    assert job.progress[-1] == (len(prompt), len(prompt))
                    answers.append(job.answer)
                    del keep
            assert answers[0] == answers[1]
        assert len(set(answers[0])) > 1


def test_every_sequence_starts_from_it(native: Any, path: Path) -> None:
    with Session(native, path, n_seq=2) as s:
        prefix = s.tokenize(TEXT)
        keep = prepared(s, evaluated(native, path, prefix))
        prompts = [prefix + s.tokenize(t) for t in (" One, two", " The fox is quick")]
        jobs = [Job(s, p, dict(GREEDY)).submit() for p in prompts]
        step(s)
        assert [j.stats.cached_tokens for j in jobs] == [len(prefix)] * 2
        run(s)
        for job, prompt in zip(jobs, prompts, strict=True):
            assert job.answer == greedy(native, path, prompt, 12)
        del keep


def test_no_conversation_is_given_up_for_what_is_prepared(native: Any, path: Path) -> None:
    """A new chat shares the prefix with another's conversation; it takes the older sequence."""
    with Session(native, path, n_seq=2) as s:
        prefix = s.tokenize(TEXT)
        keep = prepared(s, evaluated(native, path, prefix))
        Job(s, [9] * 30, dict(GREEDY)).submit()
        run(s)
        prompt = [*prefix, 76]
        talk = Job(s, prompt, dict(GREEDY)).submit()
        run(s)
        new = Job(s, [*prefix, 77], dict(GREEDY)).submit()
        run(s)
        assert new.stats.cached_tokens == len(prefix)
        turn = [*prompt, *talk.answer, 79]
        again = Job(s, turn, dict(GREEDY)).submit()
        run(s)
        assert again.stats.cached_tokens == len(turn) - 2
        assert again.answer == greedy(native, path, turn, 12)
        del keep


def test_a_context_smaller_than_the_prefix(native: Any, path: Path) -> None:
    with Session(native, path, n_ctx=24) as s:
        prefix = s.tokenize(TEXT)
        assert len(prefix) > 24
        keep = prepared(s, evaluated(native, path, prefix))
        job = Job(s, prefix[:24], {"max_tokens": 0, "ignore_end": True}).submit()
        run(s)
        assert job.stats.cached_tokens == 23 and len(job.answer) == 1
        del keep


def test_a_damaged_one_is_given_up(native: Any, path: Path) -> None:
    with Session(native, path, n_seq=2) as s:
        prefix = s.tokenize(TEXT)
        data = bytearray(evaluated(native, path, prefix))
        data[-1] ^= 1
        keep = prepared(s, bytes(data))
        for _ in range(2):
            prompt = [*prefix, 7]
            job = Job(s, prompt, dict(GREEDY)).submit()
            run(s)
            assert job.answer == greedy(native, path, prompt, 12)
        del keep


def test_no_memory_is_asked_for(lib: Any, native: Any, path: Path) -> None:
    with Session(native, path) as s:
        prefix = s.tokenize(TEXT)
        data = evaluated(native, path, prefix)
        count = lib.lp_alloc_count()
        file = File(s, data)
        file.fits()
        file.load(len(prefix))
        assert lib.lp_alloc_count() == count
