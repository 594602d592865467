"""Classes of code points: the generated table against the package it was made from, and against
the character classes of an independent regular expression engine.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SPACE = 1 << 30


@pytest.fixture(scope="module")
def classes(lib: Any) -> list[int]:
    return [lib.lp_unicode_class(c) for c in range(0x110000)]


def test_every_category(classes: list[int]) -> None:
    unicodedata2 = pytest.importorskip("unicodedata2")
    order = (
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs Cn"
    )
    bit = {name: 1 << i for i, name in enumerate(order.split())}
    wrong = [
        hex(c)
        for c, got in enumerate(classes)
        if got & ~SPACE != bit[unicodedata2.category(chr(c))]
    ]
    assert wrong == []


def test_white_space_is_what_a_regex_engine_calls_it(classes: list[int]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    text = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\S+"), "removed")
    expected = {ord(c) for piece, _ in split.pre_tokenize_str(text) for c in piece}
    assert {c for c, got in enumerate(classes) if got & SPACE} == expected
    assert len(expected) == 25


@pytest.mark.parametrize("code_point", [0x110000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_beyond_unicode_is_unassigned(lib: Any, code_point: int) -> None:
    assert lib.lp_unicode_class(code_point) == 1 << 29


def test_generator_is_deterministic_and_small(tmp_path: Path) -> None:
    pytest.importorskip("unicodedata2")
    from generate import unicode_tables

    root = Path(__file__).resolve().parents[1]
    for name in ("a", "b"):
        unicode_tables.generate(root, tmp_path / name)
    first, second = ((tmp_path / name / "unicode_tables.c").read_bytes() for name in ("a", "b"))
    assert first == second
    stage1, blocks = unicode_tables.stages()
    assert len(stage1) + sum(map(len, blocks)) < 60_000
