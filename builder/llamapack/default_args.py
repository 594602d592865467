"""Default arguments of an executable (`--arg`), checked against the runtime's own tables.

A wrong one would fail on everybody's machine, so names, numbers and words are compared here with
the rows of runtime_c/cli/options.c, which are read as text, and levels with isa.def.

SPDX-License-Identifier: Apache-2.0
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamapack.errors import UsageError
from llamapack.toolchain import Tree, find_tree, read_isas

__all__ = ["Option", "checked_args", "merged_args", "runtime_options"]

_OPTION_ROW = re.compile(
    r'(\w+)_ROW\(\s*(NULL|"(-\w)")\s*,\s*"(--[\w-]+)"\s*,[^,]*,\s*[\w]+\s*,?'
    r"(?:\s*(-?[\d.e]+)\s*,\s*(-?[\d.e]+)\s*,)?"
)
_WORDS = re.compile(r'WORD_ROW\([^"]*"(--[\w-]+)"\s*,\s*"\w+"\s*,[^"]*"([^"]+)"')
_MOST = re.compile(r'LIST_ROW\([^"]*"(--[\w-]+)"\s*,\s*"\w+"\s*,[^"]*?\b(LP_MAX_\w+)\s*,')
_ENUM = re.compile(r"\b(LP_MAX_\w+)\s*=\s*(\d+)")
# As lp_parse_i64 and lp_parse_f64 read them.
_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"(-?(0|[1-9][0-9]*)(\.[0-9]+)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the runtime's table of options."""

    kind: str  # FLAG, TEXT, LIST, INT, REAL or WORD
    name: str  # the long one
    low: float = 0
    high: float = 0
    words: tuple[str, ...] = ()  # WORD: all there are
    most: int = 0  # LIST: how many values it takes

    def accepts(self, value: str) -> bool:
        if self.kind == "WORD":
            return value in self.words
        if self.kind not in ("INT", "REAL"):
            return True
        digits = _WHOLE if self.kind == "INT" else _NUMBER
        return bool(digits.fullmatch(value)) and self.low <= float(value) <= self.high


def runtime_options() -> dict[str, list[Option]]:
    """The rows of the runtime's table (runtime_c/cli/options.c) by name, short and long; a name
    that means one thing to one command and another to the next has several."""
    folder = find_tree().root / "runtime_c" / "cli"
    if not (folder / "options.c").is_file():
        return {}
    source = (folder / "options.c").read_text(encoding="utf-8")
    header = (folder / "options.h").read_text(encoding="utf-8")
    words = {name: tuple(text.split()) for name, text in _WORDS.findall(source)}
    limits = {name: int(value) for name, value in _ENUM.findall(header)}
    most = {name: limits[limit] for name, limit in _MOST.findall(source)}
    options: dict[str, list[Option]] = {}
    for kind, _, short, long, low, high in _OPTION_ROW.findall(source):
        bounds = (float(low), float(high)) if low else (0.0, 0.0)
        assert low or kind not in ("INT", "REAL"), f"{long}: bounds are no numbers"
        assert (long in words) == (kind == "WORD") and (long in most) == (kind == "LIST"), long
        row = Option(kind, long, *bounds, words.get(long, ()), most.get(long, 0))
        for name in filter(None, (short, long)):
            options.setdefault(name, []).append(row)
    return options


def checked_args(args: Sequence[str], arches: Sequence[str]) -> list[str]:
    """The arguments as the runtime reads them (numbers without the blanks around them), or a
    UsageError. arches: the CPUs that the executables are for."""
    known = runtime_options()
    checked: list[str] = []
    counts: dict[str, int] = {}
    for arg in args:
        flag, _, value = arg.partition(" ")
        if not known:
            checked.append(arg)
            continue
        if flag not in known:
            raise UsageError(f"--arg {arg!r}: the runtime has no option {flag!r}")
        rows = known[flag]
        _check_value(arg, flag, value.strip(), rows)
        if all(row.kind in ("INT", "REAL", "WORD") for row in rows) or flag == "--cpu":
            arg = f"{flag} {value.strip()}"
        if flag == "--cpu":
            _check_level(arg, value.strip(), arches)
        counts[flag] = counts.get(flag, 0) + 1
        if rows[0].kind == "LIST" and counts[flag] > rows[0].most:
            raise UsageError(f"--arg {arg!r}: {flag} can be given at most {rows[0].most} times")
        checked.append(arg)
    return checked


def _check_value(arg: str, flag: str, value: str, rows: Sequence[Option]) -> None:
    takes_value = any(row.kind != "FLAG" for row in rows)
    if takes_value != bool(value):
        needs = "needs a value" if takes_value else "takes no value"
        raise UsageError(f"--arg {arg!r}: {flag} {needs}")
    if any(row.accepts(value) for row in rows):
        return
    row = rows[0]
    if row.kind == "WORD":
        raise UsageError(f"--arg {arg!r}: {flag} is one of {', '.join(row.words)}")
    whole = "whole " if row.kind == "INT" else ""
    raise UsageError(
        f"--arg {arg!r}: {flag} takes a {whole}number from {row.low:.15g} to {row.high:.15g}"
    )


def _check_level(arg: str, level: str, arches: Sequence[str]) -> None:
    tree = find_tree()
    for arch in dict.fromkeys(arches):
        levels = _levels(tree, arch)
        if levels and level not in levels:
            raise UsageError(f"--arg {arg!r}: on {arch} the levels are {', '.join(levels)}")


def _levels(tree: Tree, arch: str) -> list[str]:
    named = [isa.name for isa in read_isas(tree) if isa.arch == arch]
    return [*named, "ref"] if named else []


def merged_args(kept: Sequence[str], given: Sequence[str]) -> list[str]:
    """Default arguments kept from an earlier build, less the options that are given now, and then
    those; an empty argument among them keeps none."""
    known = runtime_options()

    def options(arg: str) -> frozenset[str]:
        flag = arg.partition(" ")[0]
        return frozenset(row.name for row in known.get(flag, ())) or frozenset([flag])

    new = [arg for arg in given if arg]
    taken: frozenset[str] = frozenset().union(*map(options, new))
    old = kept if len(new) == len(given) else ()
    return [*(arg for arg in old if not options(arg) & taken), *new]
