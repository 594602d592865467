"""Guessing tokens from the text so far: the finder, the choice of how many, and that no text changes.

What a job should say with guesses is what it says without: the same tokens from the same seed, the
same ending, the same cache. The scheduler's `always` tries every guess, so nothing here depends on
time.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from engine_session import ARGUMENT, F32, Refused, Session
from gguf import GGUFValueType as VType
from scheduler_job import CANCELLED, CONTEXT, END, LENGTH, STOP_TEXT, Job, greedy, run, step, words
from server_process import Server

MATCH, PLACES = 32, 64  # LP_LOOKUP_MATCH, LP_LOOKUP_PLACES
DRAFT = 6


# --- the finder -------------------------------------------------------------------------------


class Lookup:
    def __init__(self, native: Any, n_max: int, prompt: list[int]) -> None:
        self.ffi, self.lib = native.ffi, native.lib
        out, err = self.ffi.new("lp_lookup **"), self.ffi.new("lp_error *")
        assert self.lib.lp_lookup_open(out, n_max, err) == 0
        self.handle = out[0]
        self.reset(prompt)

    def reset(self, prompt: list[int]) -> None:
        self.lib.lp_lookup_reset(self.handle, self.ffi.new("int32_t[]", prompt), len(prompt))

    def add(self, token: int) -> None:
        self.lib.lp_lookup_add(self.handle, token)

    @property
    def match(self) -> int:
        return int(self.lib.lp_lookup_match(self.handle))

    def guess(self, n: int) -> list[int]:
        out = self.ffi.new("int32_t[]", n)
        return [out[i] for i in range(self.lib.lp_lookup_guess(self.handle, out, n))]

    def chance(self, match: int) -> float:
        return float(self.lib.lp_lookup_chance(self.handle, match))

    def close(self) -> None:
        self.lib.lp_lookup_close(self.handle)


def suffix_match(text: list[int], end: int) -> int:
    """How many tokens before `end` are also the last of the text, up to MATCH."""
    n = 0
    while n < min(end, MATCH) and text[end - 1 - n] == text[-1 - n]:
        n += 1
    return n


def longest(text: list[int]) -> tuple[int, int]:
    """(length, place of what followed) of the longest match of at least 2; the latest of equals."""
    found = max(((suffix_match(text, end), end) for end in range(len(text))), default=(0, 0))
    return found if found[0] >= 2 else (0, 0)


def continuation(text: list[int], place: int, n: int) -> list[int]:
    out = list(text)
    for i in range(n):
        out.append(out[place + i])
    return out[len(text) :]


def texts() -> Iterator[list[int]]:
    """Texts that repeat themselves in many ways."""
    rng = np.random.default_rng(1)
    for kinds in (1, 2, 3, 8, 40, 49152):
        for n in (0, 1, 2, 3, 40, 120 if kinds < 8 else 400):
            text = rng.integers(0, kinds, n).tolist()
            if n > 20:  # passages copied from earlier, with a slip now and then
                for at in range(15, n - 12, 17):
                    source = int(rng.integers(0, at))
                    for i in range(int(rng.integers(2, 12))):
                        text[at + i] = text[source + i] if rng.random() < 0.95 else kinds
            yield text
    yield list(range(100)) * 3


def test_finds_the_longest_match(native: Any) -> None:
    for text in texts():
        n_prompt = len(text) // 3
        lookup = Lookup(native, max(len(text), 1), text[:n_prompt])
        for at in range(n_prompt, len(text) + 1):
            if at > n_prompt:
                lookup.add(text[at - 1])
            so_far = text[:at]
            match, place = longest(so_far)
            pairs = [e for e in range(2, at) if so_far[e - 2 : e] == so_far[-2:]]
            if len(pairs) <= PLACES:
                assert lookup.match == match, so_far
                want = continuation(so_far, place, 9) if match else []
                assert lookup.guess(9) == want, so_far
            else:  # not all places were looked at: at least as long as the latest ones allow
                assert max(suffix_match(so_far, e) for e in pairs[-PLACES:]) <= lookup.match
                assert lookup.match <= match
        lookup.close()


def test_a_run_is_followed_past_places_that_are_common(native: Any) -> None:
    """The pair (1, 2) occurs far more often than is looked at, later than the passage quoted."""
    passage = [50, 51, 52, 1, 2, 53, 1, 2, 54, 55, 56]
    lookup = Lookup(native, 2000, [9, *passage, *[3, 1, 2, 4] * 200])
    for i, token in enumerate(passage[:-1]):
        lookup.add(token)
        if i >= 1:
            assert lookup.guess(1) == [passage[i + 1]], i
            assert lookup.match == i + 1
    lookup.close()


def test_the_end_of_the_room_and_a_new_text(native: Any) -> None:
    lookup = Lookup(native, 4, [7, 8, 7])
    lookup.add(8)
    assert lookup.match == 2 and lookup.guess(5) == [7, 8, 7, 8, 7]
    lookup.add(7)  # no room: no guess from here on
    assert lookup.match == 0 and lookup.guess(5) == []
    lookup.reset([1, 2, 3, 4, 5, 6, 7])  # the first four
    assert lookup.match == 0
    lookup.reset([7, 8])
    lookup.add(8)
    assert lookup.match == 0, "the text before is forgotten"
    lookup.close()
    err = native.ffi.new("lp_error *")
    for n in (0, 1 << 31):
        assert native.lib.lp_lookup_open(native.ffi.new("lp_lookup **"), n, err) == ARGUMENT


def test_learns_how_often_it_is_right(native: Any) -> None:
    lengths = (2, 3, 4, 6, 9, 15, 40)
    lookup = Lookup(native, 5000, [])
    first = [lookup.chance(n) for n in lengths]
    assert first == sorted(first) and first[0] > 0 and first[-1] < 1
    assert lookup.chance(0) == lookup.chance(1) == 0
    # "1 2" is followed by something new each time: guesses after two tokens are always wrong.
    for i in range(100):
        for token in (1, 2, 100 + i):
            lookup.add(token)
    assert lookup.chance(2) < 0.1
    assert [lookup.chance(n) for n in lengths[2:]] == first[2:], "no such match has been seen"
    # A long passage again and again: what follows a long match is always right.
    lookup.reset([])
    for token in list(range(1000, 1400)) * 3:
        lookup.add(token)
    assert lookup.chance(40) > 0.99
    assert lookup.chance(2) > first[0]
    lookup.close()


# --- how many ---------------------------------------------------------------------------------


class Costs:
    def __init__(self, native: Any) -> None:
        self.ffi, self.lib = native.ffi, native.lib
        self.costs = self.ffi.new("lp_draft_costs *")

    def measured(self, rows: int, seconds: float) -> None:
        self.lib.lp_draft_measured(self.costs, rows, seconds)

    def cost(self, rows: int) -> float:
        return float(self.lib.lp_draft_cost(self.costs, rows))

    def choose(self, chances: list[float], rows: int = 1, slower: float = 1e9) -> int:
        data = self.ffi.new("double[]", chances)
        return int(self.lib.lp_draft_choose(self.costs, rows, data, len(chances), slower))


def chain(chance: float, n: int) -> list[float]:
    return [chance ** (i + 1) for i in range(n)]


def packed_above_two(rows: int) -> float:  # a kernel with two bodies
    return 1 + 0.1 * (rows - 1) if rows <= 2 else 2.2 + 0.06 * rows


TIMES = {
    "flat": lambda rows: 1.0 + 0.01 * rows,
    "memory bound": lambda rows: 1.0 + 0.05 * rows,
    "compute bound": lambda rows: float(rows),
    "two bodies": packed_above_two,
}


@pytest.mark.parametrize("name", TIMES)
def test_comes_to_the_best_number(native: Any, name: str) -> None:
    """Steps as chosen, with noise: soon nearly as many tokens per second as with the best number."""
    times, rng = TIMES[name], np.random.default_rng(2)
    for chance in (0.1, 0.3, 0.6, 0.8, 0.95, 0.99):
        chances = chain(chance, 16)
        rates = [(1 + sum(chances[:n])) / times(1 + n) for n in range(17)]
        costs, tokens, seconds = Costs(native), 0.0, 0.0
        costs.measured(1, times(1))
        for at in range(3000):
            n = costs.choose(chances)
            took = times(1 + n) * float(rng.uniform(0.95, 1.08))
            costs.measured(1 + n, took)
            if at >= 300:
                tokens, seconds = tokens + 1 + sum(chances[:n]), seconds + took
        assert tokens / seconds > 0.9 * max(rates), chance
        assert tokens / seconds > 0.97 * rates[0] / 1.02, "not slower than without"


def tries(costs: Costs, chances: list[float], steps: int, times: Any) -> int:
    """Runs steps as chosen; how many of them had guesses."""
    tried = 0
    for _ in range(steps):
        n = costs.choose(chances)
        costs.measured(1 + n, times(1 + n))
        tried += n > 0
    return tried


def test_follows_the_machine(native: Any) -> None:
    costs, chances, unlikely = Costs(native), chain(0.9, 16), chain(0.05, 16)
    assert costs.choose(chances) == 0, "nothing is known yet"
    assert costs.cost(1) == 0
    costs.measured(1, 1.0)
    assert costs.choose(chances) == 1, "what was never measured is tried, carefully"
    assert costs.choose(unlikely) == 0
    # Each row costs as much as a step: tried less and less often.
    dear = [tries(costs, chances, 500, float) for _ in range(6)]
    assert 0 < dear[0] < 60
    assert dear[-1] <= 8
    # The machine becomes four times slower: the costs of rows against each other stay.
    assert tries(costs, chances, 500, lambda rows: 4.0 * rows) <= 8
    assert costs.choose(unlikely) == 0
    costs.measured(1, 400.0)  # one interruption
    assert tries(costs, unlikely, 10, lambda rows: 4.0 * rows) == 0
    # Rows become cheap: seen by the tries.
    tries(costs, chances, 2500, lambda rows: 4.0 * (1 + 0.02 * (rows - 1)))
    assert costs.choose(chances) >= 14


def test_others_wait_only_so_long(native: Any) -> None:
    costs = Costs(native)
    for _ in range(4):
        for rows in range(1, 30):
            costs.measured(rows, 1 + 0.1 * (rows - 1))
    assert costs.choose([1.0] * 16, rows=2) == 16
    n = costs.choose([1.0] * 16, rows=2, slower=1.25)
    assert 0 < n <= 2, "1.1 * 1.25 = 1.375 is a step of four rows"
    for rows in (0, 129, 1000):
        costs.measured(rows, 1.0)
        assert costs.cost(rows) == 0
    assert costs.choose([1.0] * 16, rows=128) == 0


# --- the same text ----------------------------------------------------------------------------


def going_round() -> tiny_model.Tiny:
    """A random model that likes to say seven tokens in turn, and departs from that by context."""
    model = tiny_model.build("llama", "Q8_0", seed=4, embd_type="F32")
    embd, out = model.tensors["token_embd.weight"].data, model.tensors["output.weight"].data
    rng = np.random.default_rng(4)
    said = rng.choice(np.arange(3, len(embd)), 7, replace=False).tolist()
    out *= 0.3
    for now, row in enumerate(embd):
        at = said.index(now) if now in said else now
        out[said[(at + 1) % 7]] += (1.2 if now in said else 0.4) * row / np.linalg.norm(row)
    return model


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return going_round().save(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def plain(native: Any, path: Path) -> Iterator[Session]:
    with Session(native, path, n_ctx=256) as session:
        yield session


@pytest.fixture(scope="module")
def guessing(native: Any, path: Path) -> Iterator[Session]:
    with Session(native, path, n_ctx=256, draft=DRAFT) as session:
        yield session


def outcome(job: Job) -> tuple[Any, ...]:
    return job.answer, b"".join(job.pieces), job.ends, job.stats.answer_tokens


def told(session: Session, prompt: list[int], **options: Any) -> Job:
    job = Job(session, prompt, {"ignore_end": True, "max_tokens": 40, **options}).submit()
    run(session)
    return job


def counted(prompt: list[int], job: Job, limit: int = 40, end: int = -1) -> tuple[int, int]:
    """Guessed and accepted tokens of an answer, by going through it as the scheduler should.

    A guess ends before an end token and before the last token that may be said."""
    answer = job.answer + ([end] if job.finish == END else [])
    at, drafted, accepted = 1, 0, 0
    while at < len(answer):
        text = prompt + answer[:at]
        match, place = longest(text)
        guess = continuation(text, place, min(DRAFT, limit - at - 1)) if match else []
        if end in guess:
            guess = guess[: guess.index(end)]
        drafted += len(guess)
        right = 0
        while right < len(guess) and answer[at : at + right + 1] == guess[: right + 1]:
            right += 1
        right = min(right, len(answer) - at - 1)  # the last one said is not evaluated
        accepted += right
        at += 1 + right
    return drafted, accepted


def prompts(session: Session) -> list[list[int]]:
    said = ["Once upon a time", "The", "one two three " * 5, "France is Paris. " * 3]
    return [session.tokenize(text) for text in said]


SAMPLINGS: list[dict[str, Any]] = [
    {"temp": 0.0},
    {"temp": 0.0, "repeat_penalty": 1.05, "repeat_last_n": 8},
    {"temp": 0.3},
    {"temp": 0.5, "top_k": 3, "min_p": 0.0},
    {"temp": 0.4, "repeat_penalty": 1.1, "presence_penalty": 0.1, "repeat_last_n": 16},
    {"temp": 0.4, "frequency_penalty": 0.05, "repeat_last_n": -1, "top_k": 0, "top_p": 0.9},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_same_tokens_for_every_seed(
    plain: Session, guessing: Session, sampling: dict[str, Any]
) -> None:
    accepted = rejected = 0
    seeds = range(6 if sampling["temp"] > 0 else 1)
    for prompt, seed in itertools.product(prompts(plain), seeds):
        want = told(plain, prompt, seed=seed, **sampling)
        job = told(guessing, prompt, seed=seed, **sampling)
        assert outcome(job) == outcome(want)
        assert [len(p) for p in job.pieces] == [len(p) for p in want.pieces]
        assert guessing.length() == plain.length()
        counts = job.stats.drafted_tokens, job.stats.accepted_tokens
        assert counts == counted(prompt, job)
        accepted += job.stats.accepted_tokens
        rejected += job.stats.drafted_tokens - job.stats.accepted_tokens
        assert want.stats.drafted_tokens == 0
        job.release()
        want.release()
    assert accepted > 10, "the test must see guesses come true"
    assert rejected > 10, "and fail"


@pytest.mark.parametrize(("arch", "act"), [("gemma3", 0), ("qwen3", F32), ("gemma2", F32)])
def test_same_tokens_in_other_families(native: Any, tmp_path: Path, arch: str, act: int) -> None:
    file = tiny_model.build(arch, "Q4_0", seed=2).save(tmp_path / "tiny.gguf")
    with (
        Session(native, file, n_ctx=256, act=act) as without,
        Session(native, file, n_ctx=256, act=act, draft=8, threads=2) as with_guesses,
    ):
        accepted = 0
        for seed in range(3):
            prompt = without.tokenize("One, two, three and four. " * 4)
            options = {"seed": seed, "temp": 0.4 * seed, "max_tokens": 60}
            want, job = told(without, prompt, **options), told(with_guesses, prompt, **options)
            assert outcome(job) == outcome(want)
            accepted += job.stats.accepted_tokens
        assert accepted > 0


def test_each_accepted_token_spares_a_step(guessing: Session) -> None:
    prompt = guessing.tokenize("One, two, three and four. " * 4)
    job = Job(guessing, prompt, {"ignore_end": True, "max_tokens": 60}).submit()
    steps = 1
    while step(guessing):
        steps += 1
    assert job.stats.accepted_tokens > 0
    assert job.stats.drafted_tokens > job.stats.accepted_tokens
    assert steps == 60 - job.stats.accepted_tokens  # the first step reads the prompt


# --- limits inside a run ----------------------------------------------------------------------


def looping(s: Session) -> tuple[list[int], list[int]]:
    """A prompt whose greedy answer goes round, and that answer: 60 tokens with accepted runs."""
    for prompt in prompts(s):
        job = told(s, prompt, max_tokens=60)
        if job.stats.accepted_tokens > 20:
            return prompt, job.answer
    pytest.fail("no prompt of these makes the model repeat itself")


def test_every_number_of_tokens(plain: Session, guessing: Session) -> None:
    prompt, answer = looping(guessing)
    for n in range(1, 60):
        job = told(guessing, prompt, max_tokens=n)
        assert (job.answer, job.finish) == (answer[:n], LENGTH)
        counts = job.stats.drafted_tokens, job.stats.accepted_tokens
        assert counts == counted(prompt, job, limit=n)
        assert guessing.length() == len(prompt) + n - 1, "one token is never evaluated"


def test_every_size_of_context(native: Any, path: Path, guessing: Session) -> None:
    prompt, answer = looping(guessing)
    for more in range(20, 34):
        with Session(native, path, n_ctx=len(prompt) + more, draft=DRAFT) as s:
            job = told(s, prompt, max_tokens=0)
            assert (job.answer, job.ends) == (answer[: more + 1], [(CONTEXT, None)])
            assert s.length() == len(prompt) + more
            assert job.stats.accepted_tokens > 0


def test_stops_anywhere(plain: Session, guessing: Session) -> None:
    prompt, answer = looping(guessing)
    said = words(plain, answer).decode(errors="replace")
    accepted = 0
    for a in range(0, len(said) - 6, 2):
        stop = said[a : a + 5]
        if "\ufffd" in stop:
            continue
        want = told(plain, prompt, stops=[stop, "☃"], max_tokens=60)
        job = told(guessing, prompt, stops=[stop, "☃"], max_tokens=60)
        assert want.finish == STOP_TEXT
        assert outcome(job) == outcome(want)
        assert guessing.length() == plain.length()
        accepted += job.stats.accepted_tokens
    assert accepted > 20


def test_end_tokens(native: Any, path: Path, guessing: Session) -> None:
    """Each token of the answer in turn is the end token; the prompt holds it, too, so it could be
    guessed."""
    prompt, answer = looping(guessing)
    prompt = prompt + answer[:40]
    answer = greedy(native, path, prompt, 40)
    for token in dict.fromkeys(answer):
        model = going_round()
        model.kv["tokenizer.ggml.eos_token_id"] = (token, VType.UINT32)
        file = model.save(path.with_name("ends.gguf"))
        with Session(native, file, n_ctx=256, draft=DRAFT) as s:
            job = told(s, prompt, ignore_end=False)
            at = answer.index(token)
            assert (job.answer, job.ends) == (answer[:at], [(END, None)])
            assert s.length() == len(prompt) + at
            counts = job.stats.drafted_tokens, job.stats.accepted_tokens
            assert counts == counted(prompt, job, end=token)


def test_stopped_by_who_listens(plain: Session, guessing: Session) -> None:
    prompt, _ = looping(guessing)

    def cancel_at(n: int, how: str) -> Any:
        def on_text(job: Job) -> bool:
            if len(job.pieces) < n:
                return True
            if how == "cancel":
                job.cancel()
            elif how == "release":
                job.release()
            return how != "false"

        return on_text

    pieces = len(told(plain, prompt, max_tokens=60).pieces)
    for how, n in itertools.product(("false", "cancel", "release"), range(10, pieces, 3)):
        heard = []
        for s in (plain, guessing):
            options = {"ignore_end": True, "max_tokens": 60}
            job = Job(s, prompt, options, on_text=cancel_at(n, how)).submit()
            run(s)
            heard.append((job.pieces, job.ends, s.length()))
        assert heard[1] == heard[0]
        assert heard[0][1] == ([] if how == "release" else [(CANCELLED, None)])


# --- several jobs, and the cache afterwards ---------------------------------------------------


@pytest.mark.parametrize(("n_seq", "rows"), [(3, 0), (3, 5), (3, 3), (2, 2)])
def test_several_jobs(native: Any, path: Path, plain: Session, n_seq: int, rows: int) -> None:
    """rows: of logits; with as many as jobs, none is left for guesses while all are answering."""
    with Session(
        native, path, n_ctx=256, n_seq=n_seq, n_batch=48, n_logit_rows=rows, draft=DRAFT, threads=2
    ) as s:
        wanted = [told(plain, p, temp=t, seed=3) for p in prompts(plain) for t in (0.0, 0.4)]
        jobs = []
        for i, want in enumerate(wanted):
            options = {"temp": 0.4 * (i % 2), "seed": 3, "ignore_end": True, "max_tokens": 40}
            jobs.append(Job(s, want.prompt, options).submit())
            step(s)
            step(s)
        run(s)
        assert [outcome(j) for j in jobs] == [outcome(w) for w in wanted]
        assert rows == n_seq or sum(j.stats.accepted_tokens for j in jobs) > 0


def test_the_cache_afterwards(native: Any, path: Path, guessing: Session) -> None:
    """A second turn after guesses: as much is kept as without, and it is what it should be."""
    for prompt in prompts(guessing):
        first = told(guessing, prompt, temp=0.2)
        turn = prompt + first.answer + guessing.tokenize(" and then one two three")
        second = told(guessing, turn)
        assert second.stats.cached_tokens == len(prompt) + 39
        assert second.answer == greedy(native, path, turn, 40)
        fork = prompt + first.answer[:20] + [77]
        third = told(guessing, fork)
        assert third.stats.cached_tokens == len(fork) - 1
        assert third.answer == greedy(native, path, fork, 40)


def test_choosing_by_cost_changes_no_text(native: Any, path: Path, plain: Session) -> None:
    with Session(native, path, n_ctx=256, n_seq=2, draft=16, draft_always=False) as s:
        for prompt in prompts(plain):
            jobs = [
                Job(s, prompt, {"ignore_end": True, "max_tokens": 100, "temp": t}).submit()
                for t in (0.0, 0.3)
            ]
            run(s)
            for job, temp in zip(jobs, (0.0, 0.3), strict=True):
                assert outcome(job) == outcome(told(plain, prompt, max_tokens=100, temp=temp))


def test_refuses_too_many(native: Any, path: Path) -> None:
    with (
        Session(native, path, draft=65) as s,
        pytest.raises(Refused, match="65 guessed tokens per step: expected at most 64"),
    ):
        s.open_scheduler()


# --- the executable ---------------------------------------------------------------------------

PASSAGE = (
    "The tide pools along the northern shore are home to more than forty species of anemone. Each "
    "pool is a small world of its own, warmed by the sun at noon and chilled by the sea at night."
)
TASK = f"Repeat the following text exactly:\n\n{PASSAGE}"


def test_the_executable_says_the_same(packed_smollm2: Path) -> None:
    def say(*arguments: str) -> str:
        words = [str(packed_smollm2), "-p", TASK, "-n", "48", *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    for sampling in (("--temp", "0"), ("--temp", "0.7", "--seed", "5")):
        assert say(*sampling) == say(*sampling, "--draft", "0") != ""
    wrong = [str(packed_smollm2), "-p", "x", "--draft", "65"]
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--draft takes a whole number from 0 to 64" in refused.stderr


def test_the_chat_counts(packed_smollm2: Path) -> None:
    said = f"{TASK}\n/stats\n/exit\n".replace("\n\n", " ")
    words = [str(packed_smollm2), "chat", "--temp", "0", "-n", "32"]
    chat = subprocess.run(words, input=said, capture_output=True, text=True, check=True)
    (line,) = [line for line in chat.stdout.splitlines() if line.startswith("lookup ")]
    guessed, right = (int(word) for word in line.split() if word.isdigit())
    assert guessed >= right > 0


def test_the_server_counts(packed_smollm2: Path) -> None:
    """The first long match is always tried, whatever steps cost, and quoting makes it come true."""
    said = []
    for draft in (16, 0):
        arguments = ("-c", "512", "--system", "", "--draft", str(draft))
        with Server(packed_smollm2, *arguments) as server:
            assert server.get("/api/info").json()["draft"] == draft
            value = server.chat(TASK, max_tokens=40)
            events = server.stream(
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": TASK}], "temperature": 0}
                | {"max_tokens": 40},
            )
        timings, details = value["timings"], value["usage"]["completion_tokens_details"]
        accepted = timings["draft_n_accepted"]
        assert details["accepted_prediction_tokens"] == accepted
        assert details["rejected_prediction_tokens"] == timings["draft_n"] - accepted
        assert (accepted > 0) == (draft > 0)
        content = value["choices"][0]["message"]["content"]
        pieces = [e["choices"][0]["delta"].get("content", "") for e in events[:-1]]
        assert "".join(pieces) == content
        assert len([p for p in pieces if p]) > 20, "accepted tokens come one by one"
        said.append((content, value["usage"]["completion_tokens"]))
    assert said[0] == said[1]
    assert PASSAGE[:60] in said[0][0]
