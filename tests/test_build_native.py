"""llamapack.native: the host library loads, and its declarations are the public headers'.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_errors_are_one_clean_line(ffi: Any, lib: Any, lp_error: Any) -> None:
    code = lib.lp_fail(lp_error, lib.LP_ERR_FORMAT, b"bad %s", ffi.new("char[]", b"a\x1b[2J\nb"))
    assert code == lib.LP_ERR_FORMAT
    assert ffi.string(lp_error.text) == b"bad a?[2J?b"


def test_strings_cross_the_border(lib: Any, lp_str: Callable[[str | bytes], Any]) -> None:
    assert lib.lp_str_equal(lp_str("héllo"), lp_str("héllo".encode()))
    assert not lib.lp_str_equal(lp_str("a\0b"), lp_str("a\0c"))


def test_every_declared_function_exists(lib: Any) -> None:
    missing = []
    for name in dir(lib):
        try:
            getattr(lib, name)
        except AttributeError:
            missing.append(name)
    assert missing == []
