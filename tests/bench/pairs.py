"""What a measurement counts for: rounds become pairs, pairs become a median and its spread.

Pure functions over the records that judge.py writes, so that a published file can be summed up
again. A round is a list of runs with a probe before each and one after the last:

    {"probes": [{"read_gbps": 38.1, ...}, ...],               one more than runs
     "runs": [{"contender": "ours", "tps": 187.2, ...}, ...]}

A pair is two neighbouring runs of a round, one of ours and one of a peer's. It counts when every
probe that matters to the test, taken before, between and after the two, agrees within TOLERANCE.
A figure of a run is named by its key: "tps" (tokens/s), "first_token" (s), "anonymous" (bytes).

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TOLERANCE = 0.06
OURS = "ours"

# What a disturbed machine shows in: the units that prefill keeps busy; memory and one unit for
# decode, which waits for either.
PREFILL_PROBES = ("int8_gops", "bf16_gflops", "fp32_gflops")
DECODE_PROBES = ("read_gbps", "int8_gops")


@dataclass(frozen=True)
class Pair:
    ours: float
    peer: float
    counts: bool

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


@dataclass(frozen=True)
class Spread:
    """Quartiles of per-pair ratios; n pairs."""

    n: int
    low: float
    median: float
    high: float


def probes_agree(
    probes: Sequence[dict[str, float | None]],
    fields: Sequence[str],
    tolerance: float = TOLERANCE,
) -> bool:
    """Whether each field's largest and smallest value differ by at most this share of the
    largest. A rate that this machine has no instruction for (None) says nothing."""
    for field in fields:
        values = [value for probe in probes if (value := probe.get(field)) is not None]
        if values and max(values) - min(values) > tolerance * max(values):
            return False
    return True


def pairs_of(
    rounds: Sequence[dict[str, Any]], peer: str, fields: Sequence[str], key: str = "tps"
) -> list[Pair]:
    """All pairs of `ours` with this peer, in the order they were run."""
    found = []
    for one in rounds:
        runs = one["runs"]
        for i in range(len(runs) - 1):
            a, b = runs[i], runs[i + 1]
            if {a["contender"], b["contender"]} != {OURS, peer}:
                continue
            if a["contender"] != OURS:
                a, b = b, a
            counts = probes_agree(one["probes"][i : i + 3], fields)
            found.append(Pair(a[key], b[key], counts))
    return found


def spread(ratios: Sequence[float]) -> Spread | None:
    if not ratios:
        return None
    if len(ratios) == 1:
        return Spread(1, ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Spread(len(ratios), low, median, high)


def order_of_round(peers: Sequence[str], index: int) -> list[str]:
    """Who runs in a round: our program between every two peers, so that each peer has one of our
    runs as its neighbour; the order turns around from round to round.

    >>> order_of_round(["a", "b", "c"], 0)
    ['a', 'ours', 'b', 'c', 'ours']
    """
    order: list[str] = []
    for i in range(0, len(peers), 2):
        order += [peers[i], OURS, *peers[i + 1 : i + 2]]
    if not peers:
        order = [OURS]
    return order if index % 2 == 0 else order[::-1]


def enough(
    rounds: Sequence[dict[str, Any]],
    peers: Sequence[str],
    fields: Sequence[str],
    wanted: int,
    key: str = "tps",
) -> bool:
    """Whether every peer has the wanted number of pairs that count (without peers: of rounds)."""
    if not peers:
        return len(rounds) >= wanted
    counts = [sum(pair.counts for pair in pairs_of(rounds, peer, fields, key)) for peer in peers]
    return min(counts) >= wanted


def shares_of_probe(
    rounds: Sequence[dict[str, Any]], contender: str, field: str, work: float
) -> list[float]:
    """Per run: its rate of work (tps * work / 1e9, in the probe's unit) over the mean of the probe
    before and the one after."""
    shares = []
    for one in rounds:
        for i, run in enumerate(one["runs"]):
            around = [probe.get(field) for probe in one["probes"][i : i + 2]]
            known = [value for value in around if value]
            if run["contender"] == contender and known:
                shares.append(run["tps"] * work / 1e9 / statistics.mean(known))
    return shares


def median_of(rounds: Sequence[dict[str, Any]], contender: str, key: str = "tps") -> float | None:
    """Over all of its runs."""
    values = [run[key] for one in rounds for run in one["runs"] if run["contender"] == contender]
    return statistics.median(values) if values else None


def summary(
    rounds: Sequence[dict[str, Any]], peer: str, fields: Sequence[str], key: str = "tps"
) -> dict[str, Any]:
    """What the table shows of one peer: counted pairs first, all pairs beside them."""
    pairs = pairs_of(rounds, peer, fields, key)
    # Memory that is not used at all has no ratio.
    counted = spread([pair.ratio for pair in pairs if pair.counts and pair.peer > 0])
    every = spread([pair.ratio for pair in pairs if pair.peer > 0])
    return {
        "peer": peer,
        "key": key,
        "ours": median_of(rounds, OURS, key),
        "theirs": median_of(rounds, peer, key),
        "pairs": len(pairs),
        "counted": vars(counted) if counted else None,
        "every": vars(every) if every else None,
    }
