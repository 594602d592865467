"""Where output goes: progress and remarks to stderr, results to stdout, and nothing else.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["note", "print_json", "progress", "result", "safe", "size_text"]


def safe(text: str) -> str:
    """Text of foreign files made harmless for a terminal: control characters become '?'."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def result(text: str) -> None:
    """A line of the answer, on stdout."""
    sys.stdout.write(safe(text) + "\n")


def print_json(value: Any) -> None:
    """The answer for machines, on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def note(text: str) -> None:
    """A remark, on stderr."""
    sys.stderr.write(safe(text) + "\n")


def size_text(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB" if size >= 1 << 20 else f"{size / 1024:,.1f} KiB"


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr for long work; None when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("preparing", total=None)

        def show(what: str, done: int, total: int) -> None:
            # A task of one step shows as busy: how long a link takes is not known.
            known = total if total > 1 else None
            bar.update(task, description=what, completed=done, total=known)

        yield show
