"""Answer speed with and without guessing from the text so far, on tasks that quote and on free text.

    python tests/bench/lookup.py chat [--pairs 9] [--tokens 160] [--only free] [--json FILE] [-- --act int8 ...]

Starts the packed executable as two servers, one with --draft 0, and asks both the same in turn, the
first of a pair changing from pair to pair. The prompt comes from the cache but for the very first
time, and the speed is the server's own figure from the first token to the last, so that decoding
alone is measured. Every pair must give the same text. Prints per task the median of the per-pair
ratios (with / without) and their quartiles, and guessed and accepted tokens.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server_process import Server

TEXT = (
    "The tide pools along the northern shore are home to more than forty species of anemone. Each "
    "pool is a small world of its own, warmed by the sun at noon and chilled by the sea at night. "
    "Children from the village come in the early morning, before the gulls arrive, to count the "
    "crabs that hide under the black rocks. An old fisherman named Tobias keeps a notebook of "
    "every count, and his grandmother kept one before him. The oldest page is dated the ninth of "
    "May, 1897, and lists eleven starfish, four urchins and a single blue lobster."
)
QUOTING = {
    "repeat": f"Repeat the following text exactly:\n\n{TEXT}",
    "quote": f"{TEXT}\n\nQuote the second and the third sentence of the text above.",
    "summarise and quote": (
        f"Summarise the following text in two sentences, then quote its last sentence:\n\n{TEXT}"
    ),
    "edit": f"Rewrite the following text, changing the name Tobias to Walter:\n\n{TEXT}",
}
FREE = {
    "story": "Tell me a story about a dragon who is afraid of fire.",
    "explain": "Explain how photosynthesis works to a student.",
    "letter": "Write a letter to a friend about a holiday in the mountains.",
}
SAMPLINGS = {"greedy": {"temperature": 0}, "sampled": {"temperature": 0.8}}


def ask(server: Server, prompt: str, **fields: Any) -> tuple[str, dict[str, float]]:
    value = server.chat(prompt, **fields)
    return value["choices"][0]["message"]["content"], value["timings"]


def compare(servers: list[Server], prompt: str, pairs: int, fields: dict[str, Any]) -> list[Any]:
    """Per pair the timings (without, with)."""
    out = []
    for pair in range(-1, pairs):  # the first warms up
        replies: list[Any] = [None, None]
        for i in (0, 1) if pair % 2 else (1, 0):
            replies[i] = ask(servers[i], prompt, seed=pair + 1, **fields)
        (plain, without), (text, timings) = replies
        if text != plain:
            raise SystemExit(f"the texts differ:\n{plain!r}\n{text!r}")
        if pair >= 0:
            out.append((without, timings))
    return out


def report(name: str, results: list[Any]) -> list[float]:
    ratios = [b["predicted_per_second"] / a["predicted_per_second"] for a, b in results]
    low, middle, high = statistics.quantiles(ratios, n=4)
    speeds = [statistics.median(p[i]["predicted_per_second"] for p in results) for i in (0, 1)]
    guessed = sum(b["draft_n"] for _, b in results)
    accepted = sum(b["draft_n_accepted"] for _, b in results)
    tokens = sum(b["predicted_n"] for _, b in results)
    print(
        f"{name:32} {middle:5.2f}x ({low:.2f} to {high:.2f})  {speeds[0]:7.1f} to {speeds[1]:7.1f}"
        f" tokens/s  of {tokens} tokens {accepted} guessed right, {guessed - accepted} wrong",
        flush=True,
    )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("chat", type=Path, help="our executable, packed with a model")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--only", choices=("quoting", "free"), help="half of the tasks")
    parser.add_argument("--json", type=Path, help="write every pair here")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    args, options = parser.parse_args(words[:end]), words[end + 1 :]
    if args.pairs < 2:
        parser.error("--pairs: a spread needs two at least")
    record: dict[str, Any] = {}
    common = ("-c", "2048", "--parallel", "1", "--system", "", *options)
    with (
        Server(args.chat, *common, "--draft", "0") as without,
        Server(args.chat, *common) as with_guesses,
    ):
        for kind, tasks in (("quoting", QUOTING), ("free", FREE)):
            if args.only not in (None, kind):
                continue
            for how, sampling in SAMPLINGS.items():
                ratios: list[float] = []
                for name, prompt in tasks.items():
                    fields = {"max_tokens": args.tokens, **sampling}
                    results = compare([without, with_guesses], prompt, args.pairs, fields)
                    ratios += report(f"{name}, {how}", results)
                    record[f"{name}, {how}"] = results
                print(f"== {kind}, {how}: median {statistics.median(ratios):.2f}x")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
