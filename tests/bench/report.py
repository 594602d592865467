"""The tables of a record that judge.py wrote: also of one read back from its file.

    python tests/bench/report.py build/judge.json

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RATIO_HEADS = ("ratio", "quartiles", "counted", "all pairs")


def tables(record: dict[str, Any]) -> str:
    parts = []
    if record["results"]:
        parts.append(speed_table(record["results"]))
    if record.get("starts"):
        parts.append(start_table(record["starts"]))
    parts += [probe_lines([*record["results"], *record.get("starts", [])])]
    return "\n\n".join(part for part in parts if part)


def speed_table(results: Sequence[dict[str, Any]]) -> str:
    heads = ("model", "test", "act", "ours t/s", "of probe", "beside", "its best", "t/s")
    rows = [(*heads, *RATIO_HEADS, "MiB ours/its")]
    for result in results:
        words = [result["test"], result["cpu"], "busy" if result["busy"] else ""]
        share = result["share_of_probe"]
        part = (
            f"{share['median']:.2f} {share['field'].rsplit('_', 1)[0]}"
            if "median" in share
            else "-"
        )
        test = " ".join(word for word in words if word)
        left = (result["model"], test, result["act"], f"{result['ours_tps']:.1f}", part)
        if not result["summary"]:
            rows.append((*left, *("-",) * 8))
        for one, memory in zip(result["summary"], result["memory"], strict=True):
            way = result["ways"][one["peer"]] or "-"
            theirs = (one["peer"], way, f"{one['theirs']:.1f}")
            rows.append((*left, *theirs, *ratio_cells(one), mib(memory)))
    return aligned(rows)


def start_table(starts: Sequence[dict[str, Any]]) -> str:
    heads = ("model", "start", "act", "ours ms", "beside", "ms")
    rows = [(*heads, *RATIO_HEADS, "MiB ours/its", "program KiB ours/its")]
    for result in starts:
        left = (
            result["model"],
            result["cache"],
            result["act"],
            f"{result['first_token'] * 1e3:.0f}",
        )
        sizes = result["program_bytes"]
        if not result["summary"]:
            rows.append((*left, *("-",) * 7, f"{sizes['ours'] >> 10}"))
        for one, memory in zip(result["summary"], result["memory"], strict=True):
            size = f"{sizes['ours'] >> 10}/{sizes[one['peer']] >> 10}"
            theirs = (one["peer"], f"{one['theirs'] * 1e3:.0f}")
            rows.append((*left, *theirs, *ratio_cells(one), mib(memory), size))
    return aligned(rows)


def ratio_cells(one: dict[str, Any]) -> tuple[str, str, str, str]:
    counted, every = one["counted"], one["every"]
    return (
        f"{counted['median']:.2f}" if counted else "-",
        f"{counted['low']:.2f}-{counted['high']:.2f}" if counted else "-",
        f"{counted['n'] if counted else 0} of {one['pairs']}",
        f"{every['median']:.2f}" if every else "-",
    )


def mib(memory: dict[str, Any]) -> str:
    return f"{memory['ours'] / 2**20:.0f}/{memory['theirs'] / 2**20:.0f}"


def probe_lines(results: Sequence[dict[str, Any]]) -> str:
    """What the machine gave meanwhile: a low or a wide range is a busy machine."""
    probes = [probe for result in results for one in result["rounds"] for probe in one["probes"]]
    lines = []
    for field in probes[0] if probes else ():
        values = [probe[field] for probe in probes if probe[field] is not None]
        if values:
            what, unit = field.rsplit("_", 1)
            middle = f"{statistics.median(values):.1f}"
            lines.append(f"probe {what} {middle} {unit} ({min(values):.1f} to {max(values):.1f})")
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: report.py RECORD.json")
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
