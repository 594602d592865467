"""Cold start to first token, peak anonymous memory and size, beside another program on one model.

    python tests/bench/start.py chat model.gguf --peer path/to/llama-completion [--pairs 9]

Runs both in turn. "warm": the files are in the page cache. "cold": every page of executable and
model was
dropped before (POSIX_FADV_DONTNEED). First token: from exec to the first byte on standard output.
Memory: the largest RssAnon seen in /proc while it runs (read every 2 ms). Prints medians, and the
median of the per-pair ratios ours / peer.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROMPT = "The capital of France is"  # as it is, no template: both go on with a word


@dataclass
class Run:
    first_token: float  # seconds
    whole: float  # seconds
    anonymous: int  # bytes


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def measure(command: list[str]) -> Run:
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    first, peak = 0.0, 0
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 0.002)
        peak = max(peak, anonymous_bytes(process.pid))
        if ready:
            data = os.read(process.stdout.fileno(), 65536)
            if data and not first:
                first = time.perf_counter() - begin
            if not data:
                break
    status = process.wait()
    if status != 0 or not first:
        raise SystemExit(f"{command[0]} failed with status {status}")
    return Run(first, time.perf_counter() - begin, peak)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("chat", type=Path, help="our executable, packed with the model")
    parser.add_argument("model", type=Path, help="the GGUF, for the peer")
    parser.add_argument("--peer", type=Path, required=True, help="llama-completion")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--ctx", default="2048")
    parser.add_argument("--tokens", default="1")
    parser.add_argument("--json", type=Path, help="write every run here")
    args = parser.parse_args()
    common = ["-p", PROMPT, "-n", args.tokens, "--temp", "0", "-c", args.ctx, "-t", "2"]
    ours = [str(args.chat), *common, "--raw"]
    # --no-display-prompt: else the peer's first byte is the prompt itself.
    peer = [
        str(args.peer),
        "-m",
        str(args.model),
        *common,
        "-no-cnv",
        "--no-display-prompt",
        "--no-warmup",
    ]
    files = {"ours": [args.chat], "peer": [args.peer, args.model]}
    record: dict[str, list[tuple[Run, Run]]] = {"warm": [], "cold": []}
    for cache, pairs in record.items():
        for _ in range(args.pairs + 1):
            runs = []
            for name, command in (("ours", ours), ("peer", peer)):
                if cache == "cold":
                    for path in files[name]:
                        drop_from_cache(path)
                runs.append(measure(command))
            pairs.append((runs[0], runs[1]))
        del pairs[0]  # the first pair warms up
    for cache, pairs in record.items():
        for field in ("first_token", "whole", "anonymous"):
            ours_values = [getattr(a, field) for a, _ in pairs]
            peer_values = [getattr(b, field) for _, b in pairs]
            ratio = statistics.median(a / b for a, b in zip(ours_values, peer_values, strict=True))
            scale, unit = (1 / 2**20, "MiB") if field == "anonymous" else (1000.0, "ms")
            print(
                f"{cache} {field:12} ours {statistics.median(ours_values) * scale:9.1f} {unit}"
                f"  peer {statistics.median(peer_values) * scale:9.1f} {unit}  ratio {ratio:.3f}"
            )
    model = args.model.stat().st_size
    print(
        f"size: ours without the model {args.chat.stat().st_size - model:,} bytes;"
        f" peer {args.peer.stat().st_size:,} bytes"
    )
    if args.json:
        plain = {c: [[vars(a), vars(b)] for a, b in pairs] for c, pairs in record.items()}
        args.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
