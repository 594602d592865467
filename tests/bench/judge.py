"""Measures our executable beside other programs on the same models, and says what counts.

    python tests/bench/judge.py model.gguf ... --llama DIR --ik DIR

Every run stands between two sets of probes; a pair of runs counts when the probes around it agree.
tests/bench/README.md tells how to get the peers and the models, and how to read the table.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "builder")]

import pairs  # noqa: E402
import report  # noqa: E402
import start  # noqa: E402
from llamapack.errors import LlamapackError  # noqa: E402
from probes import Probes  # noqa: E402
from programs import (  # noqa: E402
    Failed,
    IkLlamaCpp,
    LlamaCpp,
    Llamapack,
    Program,
    Test,
    describe,
    execute,
    find,
)

CONTEXT = "pp512,pp2048,pp8192,pp16384,tg32,tg32@4096,tg32@16384"
QUIET = "ours, quiet"  # beside busy neighbours: our own program without them
LONG = 2048  # tokens above which a test takes minutes: fewer pairs, one scouting run
ENOUGH_SECONDS = 1.0  # a run repeats its test until about this much is measured


@dataclass(frozen=True)
class Model:
    """What the shares of the probes need to know of a GGUF."""

    path: Path
    name: str
    trained: int  # tokens of context
    weights: str  # the type that most of its bytes have
    prefill_ops: int  # of matrix products, per token
    decode_bytes: int  # read per token

    @classmethod
    def read(cls, path: Path) -> Model:
        from llamapack.gguf import read_gguf

        gguf = read_gguf(path)
        matrices = [tensor for tensor in gguf.tensors if len(tensor.shape) == 2]
        body = [t for t in matrices if t.name not in ("token_embd.weight", "output.weight")]
        # The logits of one row: a matrix of their own, or the embeddings once more.
        heads = [t for t in matrices if t.name == "output.weight"]
        heads = heads or [t for t in matrices if t.name == "token_embd.weight"]
        trained = gguf.number(f"{gguf.architecture}.context_length")
        return cls(
            path=path,
            name=path.stem,
            trained=int(trained or 0),
            weights=next(iter(gguf.type_counts())),
            prefill_ops=2 * sum(t.elements for t in body),
            decode_bytes=sum(t.size for t in body + heads),
        )


@dataclass(frozen=True)
class Contender:
    """A program with the way it runs a test, beside how many spinning processes."""

    name: str
    program: Program
    way: tuple[str, ...]
    neighbours: int


class Judge:
    def __init__(self, options: argparse.Namespace, probes: Probes, say: Callable[[str], None]):
        self.options, self.probes, self.say = options, probes, say

    def run(self, who: Contender, model: Model, test: Test, repeat: int) -> dict[str, Any]:
        with self.probes.neighbours(who.neighbours):
            run = who.program.run(model.path, test, who.way, self.options.threads, repeat)
        return {
            "contender": who.name,
            "way": " ".join(who.way),
            "tps": run.tps,
            "samples": run.samples,
            "anonymous": run.anonymous,
            "seconds": round(run.seconds, 3),
        }

    def best_way(
        self, program: Program, model: Model, test: Test, neighbours: int
    ) -> tuple[Contender | None, list[dict[str, Any]]]:
        """The way whose best run was fastest, and the runs that told; None if it cannot."""
        ways = program.ways(test)
        runs: list[dict[str, Any]] = []
        best: dict[tuple[str, ...], float] = {}
        times = 0 if len(ways) == 1 else 1 if test.tokens > LONG else self.options.scout
        for _ in range(times):
            for way in list(ways):
                who = Contender(program.name, program, way, neighbours)
                try:
                    run = self.run(who, model, test, 1)
                except Failed as error:
                    self.say(f"note: {program.name} {' '.join(way)}, {test.name}: {error}")
                    ways.remove(way)
                    continue
                runs.append(run)
                best[way] = max(best.get(way, 0.0), run["tps"])
        if not ways:
            self.say(f"note: {program.name} has no figure for {test.name}")
            return None, runs
        way = max(ways, key=lambda way: best.get(way, 0.0))
        return Contender(program.name, program, way, neighbours), runs

    def measure(
        self, ours: Llamapack, peers: Sequence[Program], model: Model, test: Test, busy: bool
    ) -> dict[str, Any]:
        """Rounds until every peer has enough pairs that count, or the attempts are used up."""
        neighbours = (os.cpu_count() or 1) if busy else 0
        contenders = {pairs.OURS: Contender(pairs.OURS, ours, (), neighbours)}
        # Unmeasured: brings the model into the page cache and tells how long a run is.
        first = self.run(contenders[pairs.OURS], model, test, 1)
        repeat = repetitions(first["tps"], test)
        scouting = []
        if busy:
            contenders[QUIET] = Contender(QUIET, ours, (), 0)
        for peer in peers:
            who, runs = self.best_way(peer, model, test, neighbours)
            scouting += runs
            if who:
                contenders[who.name] = who
        names = [name for name in contenders if name != pairs.OURS]
        wanted = self.options.pairs
        if test.tokens > LONG:
            wanted = min(wanted, self.options.context_pairs)
        fields = fields_for(test)

        def run_one(name: str) -> dict[str, Any]:
            return self.run(contenders[name], model, test, repeat)

        rounds = self.rounds(names, run_one, fields, wanted, test.name)
        field, work = work_for(model, test, self.options.act, ours.level)
        shares = pairs.shares_of_probe(rounds, pairs.OURS, field, work)
        share = pairs.spread(shares)
        return {
            "model": model.name,
            "weights": model.weights,
            "test": test.name,
            "busy": busy,
            "act": self.options.act,
            "cpu": ours.level,
            "ours": describe(ours),
            "wanted": wanted,
            "repeat": repeat,
            "fields": list(fields),
            "ways": {name: " ".join(who.way) for name, who in contenders.items()},
            "share_of_probe": {"field": field, **(vars(share) if share else {})},
            "ours_tps": pairs.median_of(rounds, pairs.OURS),
            "summary": [pairs.summary(rounds, name, fields) for name in names],
            "memory": [pairs.summary(rounds, name, fields, "anonymous") for name in names],
            "scouting": scouting,
            "rounds": rounds,
        }

    def rounds(
        self,
        peers: Sequence[str],
        run_one: Callable[[str], dict[str, Any]],
        fields: Sequence[str],
        wanted: int,
        label: str,
        key: str = "tps",
    ) -> list[dict[str, Any]]:
        """Until every peer has the wanted pairs that count, or the attempts are used up."""
        done: list[dict[str, Any]] = []
        for index in range(self.options.attempts * wanted):
            probes, runs = [self.probes.measure()], []
            for name in pairs.order_of_round(peers, index):
                runs.append(run_one(name))
                probes.append(self.probes.measure())
            done.append({"probes": probes, "runs": runs})
            figures = "  ".join(f"{run['contender']} {run[key]:.4g}" for run in runs)
            self.say(f"  {label} round {index + 1}: {figures}")
            if pairs.enough(done, peers, fields, wanted, key):
                break
        return done

    def start(
        self, ours: start.Starter, peers: Sequence[start.Starter], model: Model, cache: str
    ) -> dict[str, Any]:
        """Cold start to first token, and memory; sizes without the model."""
        starters = {starter.name: starter for starter in (ours, *peers)}
        fields = pairs.DECODE_PROBES
        for starter in starters.values():  # unmeasured: what is to be warm becomes so
            start.run(starter, "warm")

        def run_one(name: str) -> dict[str, Any]:
            return start.run(starters[name], cache)

        names = [peer.name for peer in peers]
        label = f"start {cache}"
        rounds = self.rounds(names, run_one, fields, self.options.pairs, label, "first_token")
        packed = ours.files[0].stat().st_size
        if len(ours.files) == 1:
            packed -= model.path.stat().st_size
        sizes = {peer.name: peer.files[0].stat().st_size for peer in peers}
        return {
            "model": model.name,
            "cache": cache,
            "act": self.options.act,
            "fields": list(fields),
            "program_bytes": {pairs.OURS: packed, **sizes},
            "first_token": pairs.median_of(rounds, pairs.OURS, "first_token"),
            "summary": [pairs.summary(rounds, name, fields, "first_token") for name in names],
            "memory": [pairs.summary(rounds, name, fields, "anonymous") for name in names],
            "rounds": rounds,
        }


def repetitions(tps: float, test: Test) -> int:
    """So many that a run measures for about ENOUGH_SECONDS, at most 10."""
    return max(1, min(10, math.ceil(ENOUGH_SECONDS * tps / test.n)))


def fields_for(test: Test) -> tuple[str, ...]:
    return pairs.PREFILL_PROBES if test.kind == "pp" else pairs.DECODE_PROBES


def work_for(model: Model, test: Test, act: str, level: str) -> tuple[str, float]:
    """The probe that bounds the matrix products of a test, and their work per token."""
    by_tiles = "_tiles" if level == "amx" else ""
    if test.kind == "tg":
        return "read_gbps", model.decode_bytes
    if model.weights == "BF16" and act == "int8":
        return f"bf16{by_tiles}_gflops", model.prefill_ops
    if act == "f32" or model.weights in ("F16", "F32", "BF16"):
        return "fp32_gflops", model.prefill_ops
    return f"int8{by_tiles}_gops", model.prefill_ops * (2 if act == "int16" else 1)


# --- what is measured, and where the record goes ------------------------------------------------


def machine() -> dict[str, Any]:
    name = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return {"processor": name, "cores": os.cpu_count(), "system": platform.system()}


def write(record: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)


def own_level(path: Path) -> str:
    """The instruction set that our program chooses here."""
    return str(json.loads(execute([str(path), "info", "--json"]).output)["cpu"])


def build(folder: Path, model: Path | None) -> Path:
    """This checkout's executable, with a model or without."""
    out = folder / (f"chat-{model.stem}" if model else "llamapack-runtime")
    what = str(model) if model else "--no-model"
    command = [sys.executable, "-m", "llamapack", "build", what, "-o", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "builder")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr.strip().removeprefix("error: "))
    return out


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n", maxsplit=1)[0],
        epilog="How to get peers and models, what counts, how to read it: tests/bench/README.md",
    )
    add = parser.add_argument
    add("models", nargs="+", type=Path, metavar="MODEL", help="GGUF files")
    who = parser.add_argument_group("programs (a path to the program or to its directory)")
    who.add_argument("--ours", type=Path, help="our executable (default: built from this checkout)")
    who.add_argument("--other", type=Path, help="another build of ours, measured as a peer")
    who.add_argument("--llama", type=Path, help="llama.cpp: llama-bench, llama-completion")
    who.add_argument("--ik", type=Path, help="ik_llama.cpp: llama-bench")
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--tests", default="pp512,tg64", help="as pp512,tg32@4096, or none (%(default)s)"
    )
    what.add_argument("--context", action="store_true", help=f"cost against context: {CONTEXT}")
    what.add_argument("--busy", action="store_true", help="each test also beside busy neighbours")
    what.add_argument("--start", action="store_true", help="start to first token, memory, size")
    what.add_argument(
        "--act", default="int8", choices=["int8", "int16", "f32"], help="our activations"
    )
    what.add_argument("--cpu", default="", help="our levels, as avx2,avx512 (default: the best)")
    what.add_argument("--threads", type=positive, default=2)
    much = parser.add_argument_group("how much")
    much.add_argument(
        "--pairs", type=positive, default=9, help="that count, per test (%(default)s)"
    )
    much.add_argument(
        "--context-pairs", type=positive, default=3, help="above 2048 tokens (%(default)s)"
    )
    much.add_argument(
        "--attempts", type=positive, default=3, help="rounds per pair wanted (%(default)s)"
    )
    much.add_argument(
        "--scout", type=positive, default=2, help="runs to find a best way (%(default)s)"
    )
    much.add_argument("--probe-ms", type=positive, default=100, help="per probe (%(default)s)")
    add("--json", type=Path, default=ROOT / "build" / "judge.json", help="record (%(default)s)")
    add("-q", "--quiet", action="store_true", help="only the table")
    return parser.parse_args()


def peers_of(options: argparse.Namespace) -> list[Program]:
    peers: list[Program] = []
    if options.other:
        peers.append(Llamapack("other", find(options.other, "chat"), options.act))
    if options.llama:
        peers.append(LlamaCpp("llama.cpp", find(options.llama)))
    if options.ik:
        peers.append(IkLlamaCpp("ik_llama.cpp", find(options.ik)))
    return peers


def main() -> None:
    options = arguments()

    def say(text: str) -> None:
        if not options.quiet or text.startswith(("note", "error")):
            print(text, file=sys.stderr, flush=True)

    try:
        judge_all(options, say)
    except (Failed, LlamapackError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


def judge_all(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    names = options.tests if options.tests != "none" else ""
    names += "," + CONTEXT if options.context else ""
    options.measured = list(dict.fromkeys(Test.parse(n) for n in names.split(",") if n))
    models = [Model.read(path) for path in options.models]
    peers = peers_of(options)
    given = find(options.ours, "chat") if options.ours else None
    failures: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llamapack-judge-")))
        path = given or build(folder, None)
        probes = stack.enter_context(Probes(options.threads, options.probe_ms))
        judge = Judge(options, probes, say)
        record: dict[str, Any] = {
            "format": 1,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "threads": options.threads,
            "tolerance": pairs.TOLERANCE,
            "programs": [describe(Llamapack(pairs.OURS, path)), *map(describe, peers)],
            "level": own_level(path),
            "results": [],
            "starts": [],
        }
        try:
            for model in models:
                for kind, label, measure in plan(judge, options, model, path, peers, folder):
                    say(label)
                    try:
                        record[kind].append(measure())
                    except Failed as error:  # the others are still worth their hours
                        failures.append(f"{label}: {error}")
                        say(f"note: {failures[-1]}")
                    write(record, options.json)  # so that a killed run is not lost
        except Failed as error:
            failures.append(str(error))
        except KeyboardInterrupt:
            failures.append("stopped")
    if record["results"] or record["starts"]:
        print(report.tables(record))
        say(f"all rounds and probes: {options.json}")
    if failures:
        raise Failed(f"{len(failures)} of the measurements failed, the first: {failures[0]}")


def plan(
    judge: Judge,
    options: argparse.Namespace,
    model: Model,
    path: Path,
    peers: Sequence[Program],
    folder: Path,
) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """All that was asked for of one model: which list of the record, a name, how to measure it."""
    for level in options.cpu.split(","):
        ours = Llamapack(pairs.OURS, path, options.act, level)
        for test in options.measured:
            if model.trained and test.tokens > model.trained:
                judge.say(f"note: {model.name} was not trained for {test.name}")
                continue
            for busy in (False, True) if options.busy else (False,):
                words = (model.name, test.name, level, "busy" if busy else "")
                label = " ".join(word for word in words if word)
                yield "results", label, partial(judge.measure, ours, peers, model, test, busy)
    if not options.start:
        return
    # Packed with the model, as a user has it; --ours is given it.
    weights = model.path if options.ours else None
    packed = path if options.ours else build(folder, model.path)
    own = start.ours(pairs.OURS, packed, weights, options.threads, options.act)
    others = []
    if options.llama:
        completion = find(find(options.llama).parent, "llama-completion")
        others.append(start.llama_completion(completion, model.path, options.threads))
    for cache in start.CACHES:
        yield (
            "starts",
            f"{model.name} start {cache}",
            partial(judge.start, own, others, model, cache),
        )
    if not options.ours:
        packed.unlink()  # as large as the model


if __name__ == "__main__":
    main()
