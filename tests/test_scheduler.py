"""The generation loop on a tiny model: texts, stops, limits, sharing, reuse, failures.

What a job should say is computed apart from the scheduler: greedy steps of the engine, pieces from
the vocabulary.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from engine_session import ARGUMENT, FULL, Refused, Session
from gguf import GGUFValueType as VType
from scheduler_job import (
    CANCELLED,
    CONTEXT,
    END,
    ERROR,
    LENGTH,
    NONE,
    STOP_TEXT,
    Job,
    greedy,
    run,
    step,
    words,
)

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build("llama", "Q8_0", seed=4).save(
        tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    )


# --- texts ------------------------------------------------------------------------------------


def test_says_what_greedy_steps_say(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        prompt = s.tokenize(PROMPT)
        want = greedy(native, path, prompt, 60)
        job = Job(s, prompt, {"max_tokens": 60, "ignore_end": True}).submit()
        assert job.finish == NONE
        run(s)
        assert job.answer == want
        assert job.text == words(s, want).decode(errors="replace")
        assert job.ends == [(LENGTH, None)] and job.finish == LENGTH
        stats = job.stats
        assert (stats.prompt_tokens, stats.cached_tokens, stats.answer_tokens) == (
            len(prompt),
            0,
            60,
        )
        assert 0 < stats.prompt_seconds <= stats.first_token_seconds
        assert stats.answer_seconds > 0
        assert job.progress[-1] == (len(prompt), len(prompt))
        job.release()


def test_ends_at_an_end_token(native: Any, path: Path) -> None:
    """Whatever token comes third is made the end token of the file."""
    with Session(native, path) as s:
        prompt = s.tokenize(PROMPT)
    want = greedy(native, path, prompt, 8)
    at = next(i for i in range(2, 8) if want[i] not in want[:i])
    model = tiny_model.build("llama", "Q8_0", seed=4)
    model.kv["tokenizer.ggml.eos_token_id"] = (want[at], VType.UINT32)
    other = model.save(path.with_name("end.gguf"))
    with Session(native, other) as s:
        job = Job(s, prompt).submit()
        run(s)
        assert job.answer == want[:at]
        assert job.ends == [(END, None)]
        assert job.text == words(s, want[:at]).decode(errors="replace")
        assert job.stats.answer_tokens == at


def test_stop_texts_across_tokens(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        prompt = s.tokenize(PROMPT)
        tokens = greedy(native, path, prompt, 40)
        said = words(s, tokens).decode(errors="replace")
        cases = [(a, b) for a in range(0, len(said) - 8, 3) for b in (1, 2, 5, 8)]
        for a, b in cases[:24]:
            stop = said[a : a + b]
            if "\ufffd" in stop:
                continue
            job = Job(
                s,
                prompt,
                {"stops": ["never said ☃", stop, ""], "ignore_end": True, "max_tokens": 40},
            )
            job.submit()
            run(s)
            assert job.ends == [(STOP_TEXT, None)], stop
            before = said[: said.index(stop)]
            # A character cut by the stop cannot happen here, so the text is exact.
            assert job.text == before
            job.release()


def test_what_looks_like_a_stop_is_given_after_all(native: Any, path: Path) -> None:
    with Session(native, path) as s:
        prompt = s.tokenize(PROMPT)
        tokens = greedy(native, path, prompt, 30)
        said = words(s, tokens).decode(errors="replace")
        stops = [said[a : a + 3] + "\x01" for a in range(0, len(said) - 3, 2)][:16]
        stops.append(said[-4:] + "x")  # still held back when the answer ends
        job = Job(s, prompt, {"stops": stops, "ignore_end": True, "max_tokens": 30}).submit()
        run(s)
        assert job.text == said and job.finish == LENGTH


def test_characters_stay_whole(native: Any, tmp_path: Path) -> None:
    """A model made to say these bytes, one per token: each token's row points at the next one."""
    want = "é漢😀".encode() + b"\xe1\x9a" + b"!" + b"\xe4\xb8"
    assert len(set(want)) == len(want)
    model = tiny_model.build("llama", "F32", seed=1, shape=tiny_model.Shape(n_layer=1), tied=False)
    tokens = model.kv["tokenizer.ggml.tokens"][0]
    symbols = tiny_model.byte_symbols()
    ids = [tokens.index(symbols[b]) for b in want]
    for name in ("attn_output", "ffn_down"):  # the block adds nothing
        model.tensors[f"blk.0.{name}.weight"].data[:] = 0
    embd, out = model.tensors["token_embd.weight"].data, model.tensors["output.weight"].data
    embd[:], out[:] = 0, 0
    for i, (now, then) in enumerate(zip([0, *ids], ids, strict=False)):
        embd[now, i] = 1
        out[then, i] = 1
    model.tensors["output_norm.weight"].data[:] = 1
    with Session(native, model.save(tmp_path / "says.gguf")) as s:
        job = Job(s, [0], {"max_tokens": len(ids), "ignore_end": True}).submit()
        run(s)
        assert job.answer == ids
        assert job.text == want.decode(errors="replace")
        # Ill-formed parts are known as such when the next byte comes, and at the end.
        assert [p.decode() for p in job.pieces] == ["é", "漢", "😀", "\ufffd!", "\ufffd"]


# --- limits -----------------------------------------------------------------------------------


def test_the_context_fills_up(native: Any, path: Path) -> None:
    with Session(native, path, n_ctx=40) as s:
        prompt = s.tokenize(PROMPT)
        job = Job(s, prompt, {"ignore_end": True}).submit()
        run(s)
        assert job.ends == [(CONTEXT, None)]
        # The last token sampled need not fit any more: it is said, not evaluated.
        assert len(job.answer) == 40 - len(prompt) + 1
        assert s.length() == 40
        exact = Job(s, [5] * 40, {"ignore_end": True}).submit()
        run(s)
        assert (exact.finish, len(exact.answer)) == (CONTEXT, 1)
        with pytest.raises(Refused, match="the prompt has 41 tokens but the context holds 40") as e:
            Job(s, [5] * 41).submit()
        assert e.value.code == FULL


@pytest.mark.parametrize(
    ("prompt", "options", "code"),
    [
        ([], {}, ARGUMENT),
        ([-1], {}, ARGUMENT),
        ([384], {}, ARGUMENT),
        ([1], {"temp": float("nan")}, ARGUMENT),
        ([1], {"stops": ["x" * 1025]}, 4),
    ],
)
def test_refuses(
    native: Any, path: Path, prompt: list[int], options: dict[str, Any], code: int
) -> None:
    with Session(native, path) as s:
        live = native.lib.lp_alloc_live()
        s.open_scheduler()
        before = native.lib.lp_alloc_live()
        with pytest.raises(Refused) as e:
            Job(s, prompt, dict(options)).submit()
        assert e.value.code == code
        assert native.lib.lp_alloc_live() == before > live
        assert not step(s)


def test_a_vocabulary_larger_than_the_model(native: Any, tmp_path: Path) -> None:
    model = tiny_model.build("llama", "Q8_0")
    for name in ("token_embd.weight", "output.weight"):
        model.tensors[name].data = model.tensors[name].data[:100]
    with (
        Session(native, model.save(tmp_path / "few.gguf")) as s,
        pytest.raises(Refused, match="the vocabulary has 384 tokens but the model only 100"),
    ):
        s.open_scheduler()


# --- several at once --------------------------------------------------------------------------


def test_jobs_do_not_disturb_each_other(native: Any, path: Path) -> None:
    with Session(native, path, n_ctx=256, n_seq=3, n_batch=48, threads=2) as s:
        prompts = [s.tokenize(t) for t in (PROMPT, "The", "What is the capital of France? " * 4)]
        prompts += [s.tokenize("You are a helpful assistant."), s.tokenize(PROMPT + " there")]
        want = [greedy(native, path, p, 30) for p in prompts]
        jobs = []
        for p in prompts:  # five jobs for three sequences, arriving one after another
            jobs.append(Job(s, p, {"max_tokens": 30, "ignore_end": True}).submit())
            for _ in range(4):
                step(s)
        run(s)
        assert [j.answer for j in jobs] == want
        assert all(j.ends == [(LENGTH, None)] for j in jobs)


def test_prefix_reuse_changes_nothing(native: Any, path: Path) -> None:
    with Session(native, path, n_ctx=256, n_seq=2) as s:
        first = s.tokenize(PROMPT)
        other = s.tokenize("One, two, three and four.")
        options = {"max_tokens": 12, "ignore_end": True}
        a = Job(s, first, dict(options)).submit()
        b = Job(s, other, dict(options)).submit()
        run(s)
        # Second turns: what was said belongs to the prompt; all but the last token is held.
        for job, prompt in ((b, other), (a, first)):
            turn = prompt + job.answer + s.tokenize(" and then")
            again = Job(s, turn, dict(options)).submit()
            run(s)
            assert again.stats.cached_tokens == len(prompt) + len(job.answer) - 1
            assert again.answer == greedy(native, path, turn, 12)
        # The same prompt again: everything is held, the last token is evaluated all the same.
        turn = first + a.answer
        Job(s, turn, dict(options)).submit()
        run(s)
        repeat = Job(s, turn, dict(options)).submit()
        run(s)
        assert repeat.stats.cached_tokens == len(turn) - 1
        assert repeat.answer == greedy(native, path, turn, 12)
        # A prompt that parts early keeps what is common.
        fork = [*first[:3], 77, 78]
        job = Job(s, fork, dict(options)).submit()
        run(s)
        assert job.stats.cached_tokens == 3
        assert job.answer == greedy(native, path, fork, 12)


def test_long_prompts_come_in_pieces_between_answers(native: Any, path: Path) -> None:
    with Session(native, path, n_ctx=512, n_seq=2, n_batch=64) as s:
        talker = Job(s, s.tokenize(PROMPT), {"max_tokens": 40, "ignore_end": True}).submit()
        step(s)
        reader = Job(s, [7] * 300, {"max_tokens": 1, "ignore_end": True}).submit()
        counts = []
        while not reader.answer:
            step(s)
            counts.append(len(talker.answer))
        assert counts == list(range(counts[0], counts[0] + len(counts))), "the talker stood still"
        assert [d for d, _ in reader.progress] == sorted({d for d, _ in reader.progress})
        assert reader.progress[-1] == (300, 300) and len(reader.progress) >= 4
        run(s)


# --- ending early -----------------------------------------------------------------------------


def test_cancel(native: Any, path: Path) -> None:
    with Session(native, path, n_seq=2, n_ctx=512) as s:
        prompt = s.tokenize(PROMPT)
        options = {"max_tokens": 20, "ignore_end": True}
        want = greedy(native, path, prompt, 20)
        # By the callback.
        job = Job(s, prompt, dict(options), on_text=lambda j: len(j.pieces) < 3).submit()
        run(s)
        assert job.ends == [(CANCELLED, None)] and len(job.pieces) == 3
        # While waiting, in the prompt and in the answer; the others go on.
        stay = Job(s, prompt, dict(options)).submit()
        quick = [Job(s, [9] * 300, dict(options)).submit() for _ in range(3)]
        quick[2].cancel()
        step(s)
        quick[0].cancel()
        step(s)
        run(s)
        assert [q.finish for q in quick] == [CANCELLED, LENGTH, CANCELLED]
        assert quick[0].ends == [(CANCELLED, None)] and quick[2].answer == []
        assert stay.answer == want
        # From another thread, in the middle of a long prompt.
        # A fast machine may be through with the prompt by then: the answer must be long, too.
        long = Job(s, [11] * 300, {"max_tokens": 200, "ignore_end": True}).submit()
        timer = threading.Timer(0.01, long.cancel)
        timer.start()
        run(s)
        timer.join()
        assert long.finish in (CANCELLED, LENGTH)
        # What was cancelled left its sequence in order.
        after = Job(s, prompt, dict(options)).submit()
        run(s)
        assert after.answer == want


def test_release_at_any_time(native: Any, path: Path) -> None:
    lib = native.lib
    live = lib.lp_alloc_live()
    with Session(native, path, n_seq=1) as s:
        prompt = s.tokenize(PROMPT)
        options = {"max_tokens": 10, "ignore_end": True}

        def let_go(job: Job) -> bool:
            job.release()
            return True

        gone = Job(s, prompt, dict(options)).submit()
        gone.release()
        assert gone.ends == []  # no callback comes after
        inside = Job(s, prompt, dict(options), on_text=let_go).submit()
        waiting = Job(s, prompt, dict(options)).submit()
        waiting.release()
        run(s)
        assert len(inside.pieces) == 1 and inside.ends == []
        done = Job(s, prompt, dict(options)).submit()
        run(s)
        assert done.answer == greedy(native, path, prompt, 10)
        done.release()
        left = Job(s, prompt, dict(options)).submit()
        step(s)
    assert left.ends == [(CANCELLED, None)]  # closing ends what runs
    assert lib.lp_alloc_live() == live


def test_every_allocation_may_fail(native: Any, path: Path) -> None:
    """Load, tokenizer, engine, scheduler, four tokens: the n-th allocation is refused, for all n."""
    lib = native.lib
    live = lib.lp_alloc_live()
    prompt = [5, 6, 7]

    def attempt() -> None:
        with Session(native, path, n_ctx=64) as s:
            job = Job(s, prompt, {"max_tokens": 4, "ignore_end": True, "stops": ["zz"]}).submit()
            run(s)
            if job.ends[0][0] == ERROR:
                raise Refused(5, str(job.ends[0][1]))
            assert job.finish == LENGTH

    lib.lp_alloc_fail_at(-1)
    first = lib.lp_alloc_count()
    attempt()
    total = lib.lp_alloc_count() - first
    assert total > 20
    for fail in (lib.lp_alloc_fail_at, lib.lp_alloc_fail_from):
        for n in range(total):
            fail(n)
            with pytest.raises(Refused) as e:
                attempt()
            lib.lp_alloc_fail_at(-1)
            assert e.value.text, n
            assert lib.lp_alloc_live() == live, (n, "leaked")
    attempt()
