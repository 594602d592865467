"""The judge of tests/bench: which pairs count, what is made of them, what is read from whom.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "tests" / "bench"
sys.path[:0] = [str(BENCH)]

import models  # noqa: E402
import pairs  # noqa: E402
import programs  # noqa: E402
import report  # noqa: E402
from probes import Probes  # noqa: E402
from programs import Test as BenchTest  # noqa: E402

FIELDS = ("read_gbps", "int8_gops")


def probe(read: float, int8: float = 1000.0) -> dict[str, float | None]:
    return {"read_gbps": read, "int8_gops": int8, "bf16_gflops": None}


def round_of(*items: Any) -> dict[str, Any]:
    """probe, (contender, tps), probe, ... as a record holds them."""
    runs = [{"contender": name, "tps": tps} for name, tps in items[1::2]]
    return {"probes": list(items[::2]), "runs": runs}


# --- pairs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "agree"),
    [
        ([40.0, 40.0, 40.0], True),
        ([40.0, 37.6, 39.0], True),  # exactly 6 %
        ([40.0, 37.5, 39.0], False),
        ([37.5, 39.0, 40.0], False),  # a drift counts as a whole, not step by step
        ([40.0, 20.0, 40.0], False),  # disturbed between the two runs only
    ],
)
def test_probes_agree_within_six_percent(reads: list[float], agree: bool) -> None:
    assert pairs.probes_agree([probe(read) for read in reads], FIELDS) is agree
    int8_moves = [probe(40.0, read) for read in reads]
    assert pairs.probes_agree(int8_moves, FIELDS) is agree
    assert pairs.probes_agree(int8_moves, ("read_gbps", "bf16_gflops")), "others do not matter"


def test_a_pair_is_neighbours_and_counts_by_the_probes_around_it() -> None:
    one = round_of(
        probe(40), ("a", 50.0), probe(40), ("ours", 100.0), probe(40), ("b", 80.0), probe(30)
    )
    assert pairs.pairs_of([one], "a", FIELDS) == [pairs.Pair(100.0, 50.0, True)]
    assert pairs.pairs_of([one], "b", FIELDS) == [pairs.Pair(100.0, 80.0, False)]
    assert pairs.pairs_of([one], "b", ("int8_gops",))[0].counts
    assert pairs.pairs_of([one], "a", FIELDS)[0].ratio == 2.0
    apart = round_of(
        probe(40), ("a", 50.0), probe(40), ("b", 80.0), probe(40), ("ours", 100.0), probe(40)
    )
    assert pairs.pairs_of([apart], "a", FIELDS) == []


@pytest.mark.parametrize("n", range(6))
def test_every_peer_of_a_round_stands_beside_one_of_our_runs(n: int) -> None:
    peers = [f"peer{i}" for i in range(n)]
    for index in range(2):
        order = pairs.order_of_round(peers, index)
        assert sorted(set(order)) == sorted({*peers, "ours"})
        for peer in peers:
            at = order.index(peer)
            assert "ours" in order[max(at - 1, 0) : at + 2]
            assert order.count(peer) == 1
    assert pairs.order_of_round(peers, 0) == pairs.order_of_round(peers, 1)[::-1]


def test_spread_is_numpys_quartiles() -> None:
    ratios = [1.3, 0.9, 1.1, 1.7, 1.2, 1.05]
    found = pairs.spread(ratios)
    assert found is not None
    expected = np.percentile(ratios, [25, 50, 75])
    assert [found.low, found.median, found.high] == pytest.approx(list(expected))
    assert found.n == 6
    assert pairs.spread([2.0]) == pairs.Spread(1, 2.0, 2.0, 2.0)
    assert pairs.spread([]) is None


def test_summary_tells_counted_pairs_from_all() -> None:
    quiet = [
        round_of(probe(40), ("ours", tps), probe(40), ("a", 10.0), probe(40))
        for tps in (20.0, 22.0, 24.0)
    ]
    disturbed = round_of(probe(40), ("ours", 5.0), probe(20), ("a", 10.0), probe(40))
    found = pairs.summary([*quiet, disturbed], "a", FIELDS)
    assert found["pairs"] == 4
    assert found["counted"]["n"] == 3
    assert found["counted"]["median"] == pytest.approx(2.2)
    assert found["every"]["median"] == pytest.approx(2.1)
    assert found["ours"] == pytest.approx(21.0)
    assert pairs.enough(quiet, ["a"], FIELDS, 3)
    assert not pairs.enough([*quiet[:2], disturbed], ["a"], FIELDS, 3)
    nothing = pairs.summary([disturbed], "a", FIELDS)
    assert nothing["counted"] is None
    assert nothing["every"]["median"] == 0.5


def test_share_of_the_probe_is_work_over_the_mean_around_a_run() -> None:
    one = round_of(probe(30), ("ours", 10.0), probe(50), ("a", 1.0), probe(50))
    assert pairs.shares_of_probe([one], "ours", "read_gbps", 2e9) == [pytest.approx(20 / 40)]
    assert pairs.shares_of_probe([one], "ours", "bf16_gflops", 2e9) == []


# --- programs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("pp512", BenchTest("pp", 512)),
        ("tg64", BenchTest("tg", 64)),
        ("tg32@4096", BenchTest("tg", 32, 4096)),
    ],
)
def test_names_of_tests(text: str, test: BenchTest) -> None:
    assert BenchTest.parse(text) == test
    assert test.name == text


@pytest.mark.parametrize("text", ["", "pp", "pp0", "512", "tg32@", "pp512x", "pg512"])
def test_wrong_names_of_tests(text: str) -> None:
    with pytest.raises(ValueError, match="pp512"):
        BenchTest.parse(text)


LLAMA_BENCH = [{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 3.0, "samples_ts": [1.0, 5.0]}]
IK_BENCH = [
    {"n_prompt": 4096, "n_gen": 32, "avg_ts": 7.0, "test": "tg32@pp4096", "samples_ts": [7.0]}
]


def test_peers_answers() -> None:
    path = Path("llama-bench")
    llama, ik = programs.LlamaCpp("llama.cpp", path), programs.IkLlamaCpp("ik", path)
    pp512, deep = BenchTest("pp", 512), BenchTest("tg", 32, 4096)
    assert llama.samples(json.dumps(LLAMA_BENCH), pp512) == [1.0, 5.0]
    with pytest.raises(ValueError, match="another test"):
        llama.samples(json.dumps(LLAMA_BENCH), deep)
    assert ik.samples("a notice\n" + json.dumps(IK_BENCH, indent=1), deep) == [7.0]
    with pytest.raises(ValueError, match="another test"):
        ik.samples(json.dumps(IK_BENCH, indent=1), pp512)
    ours = programs.Llamapack("ours", path)
    answer = json.dumps({"prefill_tps": 300.5, "decode_tps": 0})
    assert ours.samples(answer, pp512) == [300.5]


def test_calls_name_the_test_and_the_mode() -> None:
    path, model = Path("program"), Path("m.gguf")
    deep = BenchTest("tg", 32, 4096)
    ours = programs.Llamapack("ours", path, "int8", "avx2").command(model, deep, (), 2, 3)
    assert " ".join(ours) == (
        "program bench -m m.gguf -p 0 -n 32 -r 3 -t 2 -d 4096 --cpu avx2 --act int8 --json"
    )
    llama = programs.LlamaCpp("l", path)
    assert [" ".join(way) for way in llama.ways(deep)] == ["-fa 0", "-fa 1"]
    call = " ".join(llama.command(model, deep, ("-fa", "1"), 2, 3))
    assert call == "program -m m.gguf -p 0 -n 32 -d 4096 -r 3 -t 2 -o json -fa 1"
    ik = programs.IkLlamaCpp("i", path)
    ways = {" ".join(way) for way in ik.ways(deep)}
    assert ways == {f"-fa {fa} -rtr {rtr}" for fa in (0, 1) for rtr in (0, 1)}
    assert "-p 0 -n 0 -gp 4096,32" in " ".join(ik.command(model, deep, (), 2, 3))
    assert ik.ways(BenchTest("pp", 512, 4096)) == [], "it has no such test"


def test_a_program_that_fails_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "llama-bench"
    script.write_text("#!/bin/sh\necho loading >&2\necho no such model >&2\nexit 3\n")
    script.chmod(0o755)
    assert programs.find(tmp_path) == script.resolve()
    with pytest.raises(programs.Failed, match=r"^llama-bench ended with status 3: no such model$"):
        programs.LlamaCpp("l", script).run(Path("m"), BenchTest("pp", 8), (), 1, 1)
    script.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(programs.Failed, match="cannot read its answer"):
        programs.LlamaCpp("l", script).run(Path("m"), BenchTest("pp", 8), (), 1, 1)
    with pytest.raises(programs.Failed, match="neither a program nor a directory"):
        programs.find(tmp_path / "none")


# --- probes -----------------------------------------------------------------------------------


def spinning() -> list[int]:
    """Our children that spin, by the processor time they have used (clock ticks)."""
    used = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = stat.read_text().rsplit(")", 1)[1].split()
            call = (stat.parent / "cmdline").read_bytes()
            if int(words[1]) == os.getpid() and call.endswith(b"probes\0spin\0"):
                used.append(int(words[11]))
    return used


def test_probes_measure_and_neighbours_keep_busy_and_end() -> None:
    with Probes(threads=2, milliseconds=2) as probes:
        rates = probes.measure()
        names = ["read_gbps", "int8_gops", "bf16_gflops", "fp32_gflops"]
        assert list(rates) == [*names, "int8_tiles_gops", "bf16_tiles_gflops"]
        assert all(rate is None or rate > 0 for rate in rates.values())
        assert rates["int8_gops"] is not None
        with probes.neighbours(2):
            end = time.monotonic() + 60
            while not (len(spinning()) == 2 and min(spinning()) > 5) and time.monotonic() < end:
                time.sleep(0.05)
            assert min(spinning()) > 5, "they use no processor time"
        assert spinning() == []


# --- models and the whole ---------------------------------------------------------------------


def test_random_models_have_the_real_number_of_parameters() -> None:
    def parameters(name: str) -> int:
        return sum(int(np.prod(size)) for _, size in models.tensors_of(models.SHAPES[name]))

    assert parameters("llama-3.2-1b") == 1_235_814_400  # as the models' cards say
    assert parameters("llama-3.2-3b") == 3_212_749_824
    assert parameters("llama-3.1-8b") == 8_030_261_248


def test_random_models_run(
    packed_smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf import GGUFReader

    vocabulary = tiny_model.build("llama", "Q8_0").save(tmp_path / "tiny.gguf")
    theirs = GGUFReader(vocabulary).fields
    known = theirs["tokenizer.ggml.tokens"].contents()
    shape = models.Shape(64, 2, 4, 2, 128, len(known) + 7, 256, 5e5, False, True)
    monkeypatch.setitem(models.SHAPES, "small", shape)
    path = tmp_path / "small.gguf"
    models.write_f16("small", vocabulary, path)
    ours = GGUFReader(path).fields
    tokens = ours["tokenizer.ggml.tokens"].contents()
    assert tokens[: len(known)] == known
    assert len(tokens) == len(set(tokens)) == shape.n_vocab
    assert ours["tokenizer.ggml.token_type"].contents()[-1] == models.UNUSED
    assert ours["tokenizer.ggml.merges"].contents() == theirs["tokenizer.ggml.merges"].contents()
    test = BenchTest("tg", 4, 16)
    assert programs.Llamapack("ours", packed_smollm2).run(path, test, (), 1, 1).tps > 0
    with pytest.raises(SystemExit, match="more tokens than the shape's"):
        monkeypatch.setitem(models.SHAPES, "small", replace(shape, n_vocab=len(known) - 1))
        models.write_f16("small", vocabulary, path)


def test_frequencies_of_llama_3() -> None:
    """Against the definition, wave by wave."""
    found = models.llama3_divisors(models.SHAPES["llama-3.2-1b"])
    for i, divisor in enumerate(found):
        wave = 2 * np.pi * 5e5 ** (2 * i / 64)
        if wave < 8192 / 4:
            assert divisor == 1
        elif wave > 8192:
            assert divisor == 32
        else:
            assert 1 < divisor < 32
    assert list(found) == sorted(found)


def test_the_judge_runs_without_peers(packed_smollm2: Path, tmp_path: Path) -> None:
    model = tiny_model.build("llama", "Q4_K").save(tmp_path / "tiny.gguf")
    record = tmp_path / "record.json"
    judged = subprocess.run(
        [
            *(sys.executable, str(BENCH / "judge.py"), str(model), "--ours", str(packed_smollm2)),
            *("--tests", "pp32,tg4@16,pp1000", "--pairs", "2", "--probe-ms", "2"),
            *("--threads", "1", "--busy", "--start", "--attempts", "1", "--json", str(record)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stderr
    assert "not trained for pp1000" in judged.stderr
    read = json.loads(record.read_text())
    found = {(r["test"], r["busy"]): r for r in read["results"]}
    assert set(found) == {(t, b) for t in ("pp32", "tg4@16") for b in (False, True)}
    for (_test, busy), result in found.items():
        assert len(result["rounds"]) == 2
        assert result["act"] == "int8"
        contenders = {"ours", "ours, quiet"} if busy else {"ours"}
        for one in result["rounds"]:
            assert {run["contender"] for run in one["runs"]} == contenders
            assert len(one["probes"]) == len(one["runs"]) + 1
            assert all(p["read_gbps"] > 0 and p["int8_gops"] > 0 for p in one["probes"])
        assert result["ours_tps"] > 0
    assert [s["cache"] for s in read["starts"]] == ["warm", "cold"]
    assert all(s["first_token"] > 0 for s in read["starts"])
    assert judged.stdout.strip() == report.tables(read).strip()
    assert str(tmp_path) not in record.read_text(), "a record can be published as it is"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--llama", "none"], "none: neither a program nor a directory with llama-bench"),
        (["--tests", "pp0"], "a test is pp512"),
        (["--ours", "none"], "none: neither a program"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path: Path, args: list[str], message: str) -> None:
    tiny_model.build("llama", "Q8_0").save(tmp_path / "tiny.gguf")
    error = judge(tmp_path, "tiny.gguf", *args)
    assert error.startswith("error: ")
    assert message in error


def test_a_model_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    assert "text.gguf" in judge(tmp_path, "text.gguf")


def judge(folder: Path, *args: str) -> str:
    """Its one line of error."""
    judged = subprocess.run(
        [sys.executable, str(BENCH / "judge.py"), *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 1
    assert judged.stderr.count("\n") == 1
    return judged.stderr


def test_a_measurement_that_fails_leaves_the_others_standing(
    packed_smollm2: Path, tmp_path: Path
) -> None:
    model = tiny_model.build("llama", "Q8_0").save(tmp_path / "tiny.gguf")
    peer = tmp_path / "llama-bench"
    peer.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    peer.chmod(0o755)
    record = tmp_path / "record.json"
    judged = subprocess.run(
        [
            *(sys.executable, str(BENCH / "judge.py"), str(model), "--ours", str(packed_smollm2)),
            *("--llama", str(peer), "--other", str(peer), "--tests", "pp8", "--pairs", "1"),
            *("--probe-ms", "1", "--attempts", "1", "--json", str(record)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 1
    assert "llama.cpp has no figure for pp8" in judged.stderr
    assert "error: 1 of the measurements failed" in judged.stderr
    assert "it is broken" in judged.stderr
    assert json.loads(record.read_text())["results"] == []
