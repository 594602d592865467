"""Layers with a sliding window keep only their window: nothing that is said changes, less is kept.

What an engine says that has given old keys and values back is held against numpy and, bit for bit,
against an engine whose one step holds everything.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
import tiny_model
from engine_session import ARGUMENT, F32, INT8, KV_F16, KV_F32, KV_Q8_0, Refused, Session, levels
from scheduler_job import LENGTH, Job, run
from test_kv_file import MODEL_BYTES, SHA256, File, write

BLOCK, SLACK = 64, 64  # LP_KV_BLOCK, LP_KV_SLACK
WINDOW = 40
N = 900  # longer than the blocks of a sequence, with steps of up to 64 rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("window")


def model(folder: Path, arch: str = "gemma3", layers: int = 0, *, tied: bool = True) -> Path:
    """gemma3: of 7 layers all but the sixth see a window. gemma2: of 4 every other one does."""
    path = folder / f"{arch}-{layers}-{tied}.gguf"
    shape = tiny_model.shape_of(arch)
    if layers:
        shape = replace(shape, n_layer=layers)
    if not path.exists():
        tiny_model.build(arch, "Q8_0", shape=shape, tied=tied).save(path)
    return path


def tokens_for(n: int, seed: int = 1) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, 384, n)]


def same(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    return a.tobytes() == b.tobytes()


def everything(native: Any, path: Path, tokens: list[int], last: int = 1, **options: Any) -> Any:
    """Logits of the last tokens by an engine that has room for all of them in one step."""
    n = len(tokens)
    with Session(native, path, n_ctx=n, n_batch=n, n_logit_rows=n, threads=2, **options) as s:
        if n > last:
            s.step(tokens[:-last], want=False)
        return s.step(tokens[-last:])


def blocks_of(positions: int) -> int:
    """The most blocks that so many neighbours can lie in."""
    return max(len({(p + i) // BLOCK for i in range(positions)}) for p in range(BLOCK))


# --- right ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gemma2", "gemma3"])
def test_equals_numpy_far_behind_the_window(native: Any, folder: Path, arch: str) -> None:
    path, tokens = model(folder, arch), tokens_for(N)
    numpy = reference.Reference(path)
    want = numpy.logits(numpy.hidden(tokens))
    with Session(native, path, n_ctx=1024, n_batch=48, n_logit_rows=48, act=F32) as s:
        got = np.concatenate([s.step(tokens[i : i + 48]) for i in range(0, N, 48)])
    assert reference.divergence(want, got).max() < 1e-6


@pytest.mark.parametrize(
    ("arch", "act", "kv"),
    [("gemma3", INT8, KV_F16), ("gemma3", F32, KV_F32), ("gemma2", INT8, KV_Q8_0)],
)
def test_any_cut_gives_the_same_bits(
    native: Any, folder: Path, arch: str, act: int, kv: int
) -> None:
    path, tokens = model(folder, arch, layers=2), tokens_for(N)
    rng = np.random.default_rng(3)
    for cpu in levels(native):
        if cpu in ("ref", "sse2", "avx"):  # slow, and nothing of this depends on the level
            continue
        options: dict[str, Any] = {"act": act, "kv": kv, "cpu": cpu}
        want = everything(native, path, tokens, N, **options)
        for n_batch, threads in ((1, 1), (7, 2), (64, 5), (300, 2)):
            with Session(
                native, path, n_ctx=1024, n_batch=n_batch, n_logit_rows=n_batch, threads=threads,
                **options,
            ) as s:  # fmt: skip
                got, at = [], 0
                while at < N:
                    n = min(int(rng.integers(1, n_batch + 1)), N - at)
                    got.append(s.step(tokens[at : at + n]))
                    at += n
                assert same(want, np.concatenate(got)), (cpu, n_batch)


# --- cutting ----------------------------------------------------------------------------------


def test_cuts_around_the_window(native: Any, folder: Path) -> None:
    """Steps and cuts at random, two sequences in turn: what can stay is as was promised, and what
    comes after it is what a fresh engine says."""
    path = model(folder, layers=2)
    lib, rng = native.lib, np.random.default_rng(11)
    options: dict[str, Any] = {"n_ctx": 2048, "n_batch": 32, "n_logit_rows": 32, "n_seq": 2}
    held: list[list[int]] = [[], []]
    mark, refused, checked = [0, 0], 0, 0
    with Session(native, path, **options) as s:
        for turn in range(500):
            q = int(rng.integers(0, 2))
            text, n = held[q], len(held[q])
            kind = int(rng.integers(0, 24))
            if kind == 0 and n:
                lib.lp_engine_mark(s.engine, q)
                mark[q] = n
            elif kind <= 3 and n:
                # Near the end, at the mark, or anywhere.
                near = [n - int(rng.integers(0, SLACK + 1)), mark[q] or n, int(rng.integers(n + 1))]
                keep = max(0, near[kind - 1])
                kept = int(lib.lp_engine_keepable(s.engine, q, keep))
                assert kept <= keep
                assert kept == keep or (kind == 3 and keep < n - SLACK), (turn, keep, n)
                assert s.lib.lp_engine_truncate(s.engine, q, keep) == kept == s.length(q)
                refused += kept < keep
                held[q] = text[:kept]
                if kept < mark[q]:
                    mark[q] = 0
            if len(held[q]) > 1500:
                assert s.lib.lp_engine_truncate(s.engine, q, 0) == 0
                held[q], mark[q] = [], 0
            for _ in range(int(rng.integers(1, 6))):
                more = [int(t) for t in rng.integers(0, 384, int(rng.integers(1, 33)))]
                logits = s.step(more, q)
                held[q] = held[q] + more
            if turn % 12 == 0:
                assert same(everything(native, path, held[q], len(more)), logits), turn
                checked += len(held[q]) > 704
        assert refused > 3 and checked > 10, (refused, checked)


def test_a_mark_stays_however_far_the_sequence_goes(native: Any, folder: Path) -> None:
    path = model(folder, layers=2)
    tokens = tokens_for(1800)
    with Session(native, path, n_ctx=2048, n_batch=64) as s:

        def go_on(end: int) -> None:
            while s.length() < end:
                s.step(tokens[s.length() : min(end, s.length() + 64)], want=False)

        def keepable(n: int) -> int:
            return int(s.lib.lp_engine_keepable(s.engine, 0, n))

        go_on(700)
        s.lib.lp_engine_mark(s.engine, 0)
        go_on(730)
        s.lib.lp_engine_mark(s.engine, 0)
        go_on(1800)
        assert [keepable(n) for n in (730, 700, 700 - SLACK, 704, 1800 - SLACK)] == [
            730, 700, 700 - SLACK, 704, 1800 - SLACK
        ]  # fmt: skip
        # From where a cut is not possible: the last place before it from where to go on.
        assert keepable(1300) == 768 and keepable(300) == 0
        s.truncate(1300)
        assert s.length() == 768
        want = everything(native, path, [*tokens[:768], 5])
        assert same(s.step([5]), want)
        # A mark too far from the next one makes room when it must.
        go_on(1400)
        s.lib.lp_engine_mark(s.engine, 0)
        go_on(1800)
        assert keepable(1400) == 1400


def test_a_step_that_fails_leaves_the_window(native: Any, folder: Path) -> None:
    path = model(folder, layers=2)
    tokens = tokens_for(1000)
    with Session(native, path, n_ctx=1024, n_batch=64, n_logit_rows=1) as s:
        for i in range(0, 960, 64):
            s.step(tokens[i : i + 64], want=False)
            with pytest.raises(Refused):
                s.rows(
                    [(1, i + 64 + k, 0, False) for k in range(63)] + [(s.n_vocab, i + 127, 0, True)]
                )
            assert s.length() == i + 64
        s.step(tokens[960:999], want=False)
        assert same(s.step(tokens[999:]), everything(native, path, tokens))


# --- the scheduler ----------------------------------------------------------------------------


def answers(s: Session, prompt: list[int], n: int, **options: Any) -> Job:
    job = Job(s, list(prompt), {"max_tokens": n, "ignore_end": True, **options}).submit()
    run(s)
    assert job.finish == LENGTH
    return job


def fresh(native: Any, path: Path, prompt: list[int], n: int, **options: Any) -> list[int]:
    """The answer by an engine that keeps everything."""
    size = len(prompt) + n
    with Session(native, path, n_ctx=size, n_batch=size, threads=2) as s:
        return answers(s, prompt, n, **options).answer


def test_turns_answers_made_anew_and_questions_taken_back(native: Any, folder: Path) -> None:
    path = model(folder, layers=2)
    system, question, other = tokens_for(300, 1), tokens_for(200, 2), tokens_for(90, 3)
    with Session(native, path, n_ctx=3072, n_batch=64, threads=2) as s:
        first = system + question
        a = answers(s, first, 60)
        talk = first + a.answer
        second = [*talk, *other]
        b = answers(s, second, 900)
        assert b.stats.cached_tokens == len(talk) - 1
        # The next turn goes on from all of it.
        third = [*second, *b.answer, 7, 8]
        assert answers(s, third, 5).stats.cached_tokens == len(third) - 3
        # Once more the second answer: its prompt's end is long out of the window, but marked.
        again = answers(s, second, 900)
        assert again.answer == b.answer
        assert again.stats.cached_tokens == len(second) - 1
        # The answer without its first part, as templates do that leave thinking out.
        cut = [*second, (b.answer[0] + 1) % 384, *b.answer[500:]]
        c = answers(s, cut, 12)
        assert c.stats.cached_tokens == len(second)
        assert c.answer == fresh(native, path, cut, 12)
        # The second question taken back, which is longer than the slack, and another asked.
        assert answers(s, second, 900).answer == b.answer
        instead = [*talk, 11, 12]
        d = answers(s, instead, 12)
        assert d.stats.cached_tokens == len(talk)
        assert d.answer == fresh(native, path, instead, 12)
        # Parting where nothing is kept: from the beginning, and right.
        answers(s, instead, 900)
        apart = [*system, 13, 14]
        e = answers(s, apart, 12)
        assert e.stats.cached_tokens < len(system)
        assert e.answer == fresh(native, path, apart, 12)


def test_a_job_takes_the_sequence_it_can_go_on_from(native: Any, folder: Path) -> None:
    """Not the one that shares most but has lost what the windows see."""
    path = model(folder, layers=2)
    base = tokens_for(400, 4)
    with Session(native, path, n_ctx=2048, n_seq=2, n_batch=64, threads=2) as s:
        long = Job(s, [*base, *tokens_for(1200, 5)], {"max_tokens": 4, "ignore_end": True}).submit()
        short = Job(s, [*base[:200], 3], {"max_tokens": 4, "ignore_end": True}).submit()
        run(s)
        assert long.finish == short.finish == LENGTH
        prompt = [*base, 17]
        job = answers(s, prompt, 10)
        assert job.stats.cached_tokens == 200
        assert job.answer == fresh(native, path, prompt, 10)


def test_guesses_change_no_text(native: Any, folder: Path) -> None:
    path = model(folder, layers=2, tied=False)  # else it says the last token again and again
    phrase = tokens_for(30, 6)
    prompt = (phrase * 30)[: 30 * 25]
    said = []
    options = {"temp": 0.7, "top_k": 2, "seed": 5}
    for draft in (0, 64):
        with Session(native, path, n_ctx=2048, n_batch=80, draft=draft) as s:
            a = answers(s, prompt, 250, **options)
            b = answers(s, [*prompt, *a.answer, *phrase], 60, **options)
            said.append((a.answer, b.answer))
            drafted = a.stats.drafted_tokens + b.stats.drafted_tokens
            accepted = a.stats.accepted_tokens + b.stats.accepted_tokens
    assert said[0] == said[1]
    assert drafted > 100 and drafted > accepted > 0  # most were cut off again
    assert said[1][0] == fresh(native, path, prompt, 250, **options)


# --- prepared prefixes ------------------------------------------------------------------------


def test_a_prepared_prefix_longer_than_the_window(native: Any, folder: Path) -> None:
    path, tokens = model(folder), tokens_for(1000)
    options: dict[str, Any] = {"n_batch": 64, "threads": 2}
    with Session(native, path, n_ctx=1000, **options) as s:
        for i in range(0, 1000, 64):
            s.step(tokens[i : i + 64], want=False)
        data = write(s, tokens)
        with pytest.raises(Refused, match="what the sequence's windows saw is gone") as error:
            write(s, tokens[:380])
        assert error.value.code == ARGUMENT
    # Of six layers with a window a window and the slack, of the seventh everything.
    slot, first = 2 * 2 * 128, (1000 - WINDOW - SLACK + 1) // BLOCK * BLOCK
    begin = -(-(112 + 7 * 12 + 4 * 1000) // 64) * 64
    assert len(data) == begin + slot * (1000 + 6 * (1000 - first))
    for size in ({"n_ctx": 1024}, {"n_ctx": 2048, "n_batch": 1}, {"n_ctx": 4096, "n_batch": 512}):
        with Session(native, path, n_seq=2, **{**options, **size}) as s:
            file = File(s, data)
            file.fits(SHA256, MODEL_BYTES)
            assert file.common(tokens) == 1000
            assert file.common([*tokens[: 1000 - SLACK], 1]) == 1000 - SLACK
            assert file.common([*tokens[: 999 - SLACK], 1]) == 0
            for n in (1000, 1000 - SLACK):
                file.load(n, 1)
                want = everything(native, path, [*tokens[:n], 9])
                assert same(s.step([9], 1), want), (size, n)
            assert int(s.lib.lp_engine_truncate(s.engine, 1, 500)) == 0
            with pytest.raises(Refused):
                file.load(999 - SLACK, 1)
            # Cut back behind a load: no further than what was stored.
            file.load(1000, 1)
            assert s.lib.lp_engine_keepable(s.engine, 1, 1000 - SLACK) == 1000 - SLACK
            kept = int(s.lib.lp_engine_truncate(s.engine, 1, first + WINDOW - 1))
            assert kept in (0, first + WINDOW - 1)
            if kept:
                assert same(s.step([9], 1), everything(native, path, [*tokens[:kept], 9]))


# --- memory -----------------------------------------------------------------------------------


def test_what_is_reserved(native: Any, folder: Path) -> None:
    """Six layers of seven have a window; a block of them takes 64 KiB in F16."""
    path = model(folder)
    recent = blocks_of(WINDOW + SLACK + 511) + blocks_of(WINDOW + SLACK - 1) + 4
    for n_ctx, n_seq in ((512, 1), (4096, 1), (32768, 1), (32768, 3)):
        with Session(native, path, n_ctx=n_ctx, n_seq=n_seq) as s:
            need = native.lib.lp_engine_kv_need(s.model, KV_F16, n_ctx, n_seq)
            blocks = min(recent, n_ctx // BLOCK)
            assert (need.window, need.per_token) == (WINDOW, 512)
            assert need.window_bytes == 6 * 512 * BLOCK * blocks * n_seq
            assert need.bytes == need.window_bytes + 512 * n_ctx * n_seq
            assert native.lib.lp_engine_kv_bytes(s.engine) == need.bytes
    with Session(native, model(folder, "llama")) as s:
        info = native.lib.lp_model_describe(s.model)
        need = native.lib.lp_engine_kv_need(s.model, KV_F16, 640, 2)
        assert (need.window, need.window_bytes) == (0, 0)
        assert need.per_token == info.kv_bytes_per_token
        assert need.bytes == 2 * 640 * info.kv_bytes_per_token
        huge = native.lib.lp_engine_kv_need(s.model, KV_F16, 2**62, 64)
        assert huge.bytes == 2**64 - 1


def test_what_is_touched(native: Any, folder: Path) -> None:
    """10000 tokens in 16384 of context: 5 MB of the layer that sees everything, 2 MB of the others;
    if those kept everything, it would be 30."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    tokens = tokens_for(10000)
    with Session(native, model(folder), n_ctx=16384, n_batch=64, threads=2) as s:
        s.step(tokens[:128][:64], want=False)
        before = resident()
        for i in range(64, 10000, 64):
            s.step(tokens[i : i + 64], want=False)
        assert 4 << 20 < resident() - before < 12 << 20


def test_the_executable_reckons_with_it(packed_smollm2: Path, folder: Path) -> None:
    """A context whose cache fits only because six layers of seven keep no more than a window."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(packed_smollm2), *words, "-m", str(model(folder))]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    facts = json.loads(run("info", "--json").stdout)
    assert (facts["kv_bytes_per_token"], facts["kv_window"]) == (512, WINDOW)
    assert facts["kv_window_bytes"] == 6 * 512 * 512  # its trained context is no longer than that
    free = facts["memory_available"]
    if not free:
        pytest.skip("the free memory of this system is not known")
    bench = ("bench", "-p", "8", "-n", "1", "-r", "1", "-c")
    fits = run(*bench, str(free // 4 // 512))
    assert (fits.returncode, "prefill" in fits.stdout) == (0, True), fits.stderr
    not_so = run(*bench, str(free * 2 // 512))
    assert not_so.returncode != 0 and "choose a smaller -c" in not_so.stderr
