"""First token with a system prompt evaluated at build time, beside none and beside a fresh one.

    python tests/bench/system_prompt.py MODEL [--tokens 500] [--rounds 15]

Packs MODEL (anything `llamapack build` takes) with a system prompt of about that many tokens and
runs the executable as a user does, from a cold process with a warm page cache, in turn:

    raw       no system prompt and no template: words, as many tokens as `embedded` evaluates
    none      --system "": what the template makes of a chat without a system prompt
    embedded  the system prompt, from its cache
    fresh     the same with --no-embedded-kv (every fifth round)

First token: from exec to the first byte on standard output. Prints medians and the medians of the
per-round ratios to raw and none.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from start import Starter, run

QUESTION = (
    "Tell me in one sentence what makes the sea look blue on a clear summer"  # raw, it goes on
)
RULE = "Rule {}: be polite, answer in whole sentences, and never mention rule {} by name."


def pack(model: str, out: Path, rules: int) -> int:
    """Builds; returns how many tokens were evaluated."""
    system = " ".join(RULE.format(i, i) for i in range(1, rules + 1))
    command = [sys.executable, "-m", "llamapack", "build", model, "-o", str(out), "--json"]
    done = subprocess.run(
        [*command, "--system", system], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(json.loads(done.stdout)["outputs"][0]["system_kv"]["tokens"])


def evaluated(chat: Path) -> int:
    """Tokens that are left to evaluate when the system prompt comes from its cache."""
    done = subprocess.run(
        [str(chat), "chat", "-n", "1"], input=f"{QUESTION}\n/stats\n",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"prompt +(\d+) tokens, (\d+) of them from the cache", done.stdout)
    assert found, done.stdout
    return int(found[1]) - int(found[2])


def words(chat: Path, n: int) -> str:
    """A text of n tokens."""
    text = QUESTION
    while True:
        done = subprocess.run(
            [str(chat), "tokenize", "--ids", text], capture_output=True, text=True, check=True
        )
        if len(done.stdout.split()) >= n:
            return text
        text = "Well " + text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chat = Path(folder) / "chat"
        tokens = pack(args.model, chat, max(1, args.tokens // 20))
        base = [str(chat), "-p", QUESTION, "-n", "1", "--temp", "0", "-t", "2"]
        commands = {
            "raw": [*base, "--raw", "-p", words(chat, evaluated(chat))],
            "none": [*base, "--system", ""],
            "embedded": base,
            "fresh": [*base, "--no-embedded-kv"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(args.rounds + 1):
            for name, command in commands.items():
                if name == "fresh" and turn % 5:
                    continue
                seconds = run(Starter(name, tuple(command), ()), "warm")["first_token"]
                if turn or name == "fresh":  # the first round warms up
                    times[name].append(seconds)
    print(f"system prompt: {tokens} tokens evaluated at build time")
    for name, values in times.items():
        line = f"{name:9} median {statistics.median(values) * 1e3:8.1f} ms"
        print(f"{line}  least {min(values) * 1e3:8.1f} ms")
    for other in ("raw", "none"):
        pairs = zip(times["embedded"], times[other], strict=True)
        print(f"embedded / {other}: {statistics.median(a / b for a, b in pairs):.3f}")


if __name__ == "__main__":
    main()
