"""cli/line.c: keys in, text out, as readline users expect.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


class Editor:
    def __init__(self, lib: Any, ffi: Any, c_text: Any) -> None:
        self.lib, self.ffi, self.c_text = lib, ffi, c_text
        self.line = lib.lp_line_new()
        lib.lp_line_clear(self.line)

    def type(self, keys: str | bytes) -> int:
        event = 0
        for byte in keys.encode() if isinstance(keys, str) else keys:
            event = self.lib.lp_line_feed(self.line, byte)
        return event

    @property
    def text(self) -> str:
        return str(self.c_text(self.lib.lp_line_text(self.line)).decode())

    @property
    def cursor(self) -> int:
        return int(self.lib.lp_line_cursor(self.line))


@pytest.fixture
def editor(lib: Any, ffi: Any, c_text: Any) -> Iterator[Editor]:
    live = lib.lp_alloc_live()
    e = Editor(lib, ffi, c_text)
    yield e
    lib.lp_line_free(e.line)
    assert lib.lp_alloc_live() == live


@pytest.mark.parametrize(
    ("keys", "text", "cursor"),
    [
        ("hello", "hello", 5),
        ("héllo漢😀", "héllo漢😀", 13),
        ("ab\x1b[Dc", "acb", 2),
        ("漢字\x1b[D\x1b[Dx", "x漢字", 1),
        ("ab\x02\x02\x06c", "acb", 2),
        ("abc\x01x\x05y", "xabcy", 5),
        ("abc\x1b[Hx\x1b[Fy", "xabcy", 5),
        ("abc\x1bOHx\x1bOFy", "xabcy", 5),
        ("abc\x7f\x7f", "a", 1),
        ("é漢\x7f", "é", 2),
        ("\x7f", "", 0),
        ("abc\x01\x1b[3~", "bc", 0),
        ("abc\x01\x04", "bc", 0),
        ("one two\x17", "one ", 4),
        ("one two\x1bbx", "one xtwo", 5),
        ("one two\x01\x1bfx", "onex two", 4),
        ("one two\x1b[1;5D\x0b", "one ", 4),
        ("one two\x1b[1;5D\x15", "two", 0),
        ("a\x0ab", "a\nb", 3),
        ("a\x1b\rb", "a\nb", 3),
        ("a\\\rb", "a\nb", 3),
        ("ab\ncd\x1b[Ax", "abx\ncd", 3),
        ("a\tb", "a\tb", 3),
        ("a\x1b[99;99;99~b", "ab", 2),
        ("a\x1b[" + "1;" * 40 + "~b", None, None),
        (b"a\xffb\xc3(\xa0", "ab(", 3),
    ],
)
def test_keys(editor: Editor, keys: str | bytes, text: str | None, cursor: int | None) -> None:
    editor.type(keys)
    if text is None:
        assert "\x1b" not in editor.text  # overlong sequences end somewhere, never as a control
        return
    assert (editor.text, editor.cursor) == (text, cursor)


def test_a_paste_is_text_whatever_is_in_it(editor: Editor) -> None:
    pasted = "def f():\r\n\treturn 1\r\rtail\x03\x04\x1b[A\x07"
    event = editor.type("> \x1b[200~" + pasted + "\x1b[201~!")
    assert event == editor.lib.LP_LINE_EDITED
    assert editor.text == "> def f():\n\treturn 1\n\ntail!"


def test_events(editor: Editor) -> None:
    lib = editor.lib
    assert editor.type("\x04") == lib.LP_LINE_END
    assert editor.type("\x03") == lib.LP_LINE_INTERRUPT
    assert editor.type("\x0c") == lib.LP_LINE_REDRAW
    assert editor.type("x\r") == lib.LP_LINE_DONE
    assert editor.text == "x"


def test_history_comes_back_and_keeps_the_draft(editor: Editor, lp_str: Any) -> None:
    for text in ("first", "second", "second", "", "third\nline"):
        editor.lib.lp_line_history_add(editor.line, lp_str(text))
    editor.lib.lp_line_clear(editor.line)
    editor.type("draft\x10")
    assert editor.text == "third\nline"
    editor.type("\x1b[A")  # first to the upper row of the recalled text
    editor.type("\x1b[A")
    assert editor.text == "second"
    editor.type("\x10")
    assert editor.text == "first"
    editor.type("\x10\x10")
    assert editor.text == "first"
    editor.type("\x0e\x0e\x0e")
    assert editor.text == "draft"


def test_history_survives_a_file(editor: Editor, lp_str: Any, c_text: Any) -> None:
    texts = ["plain", "two\nlines", "back\\slash\\n", "漢字 é", "\ttab"]
    for text in texts:
        editor.lib.lp_line_history_add(editor.line, lp_str(text))
    file = editor.ffi.new("lp_buf *")
    editor.lib.lp_line_history_save(editor.line, file)
    saved = c_text(file)
    editor.lib.lp_buf_free(file)
    other = Editor(editor.lib, editor.ffi, c_text)
    other.lib.lp_line_history_load(other.line, lp_str(saved + b"bad \xff line\nfine\n\x1b[2Jno\n"))
    editor.lib.lp_line_clear(other.line)
    seen = []
    for _ in range(12):
        other.type("\x01" + "\x10")
        while "\n" in other.text and other.cursor > other.text.index("\n"):
            other.type("\x10")
        if not seen or seen[-1] != other.text:
            seen.append(other.text)
    other.lib.lp_line_free(other.line)
    assert [t for t in reversed(seen) if t in [*texts, "fine"]] == [*texts, "fine"]
    assert not any("\x1b" in t for t in seen)


def test_a_refused_allocation_loses_a_key_and_not_the_text(editor: Editor) -> None:
    editor.type("x" * 60)
    editor.lib.lp_alloc_fail_from(0)
    editor.type("y" * 200)
    editor.lib.lp_alloc_fail_at(-1)
    kept = editor.text
    assert kept.startswith("x" * 60)
    editor.type("z")
    assert editor.text == kept + "z"


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("😀!", 3), ("한글", 4)]
)
def test_columns(lib: Any, lp_str: Any, text: str, columns: int) -> None:
    assert lib.lp_line_columns(lp_str(text)) == columns
