"""base/json.c against Python's json: what must be accepted, what must be refused, round trips.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

Parse = Callable[[bytes], Any]

DEPTH = 64


class Refused(Exception):
    """What lp_json_parse said no with: (code, text)."""


@pytest.fixture
def parse(lib: Any, ffi: Any, lp_str: Any, lp_error: Any) -> Parse:
    """Parses with the runtime and hands back what Python's json.loads would."""

    def text_of(value: Any) -> str:
        return bytes(ffi.buffer(value.data, value.len)).decode() if value.len else ""

    def children(node: Any) -> list[Any]:
        found = []
        child = lib.lp_json_first(node)
        while child != ffi.NULL:
            found.append(child)
            child = lib.lp_json_next(child)
        assert len(found) == lib.lp_json_count(node)
        return found

    def convert(node: Any) -> Any:
        kind = lib.lp_json_type_of(node)
        if kind == lib.LP_JSON_NULL:
            return None
        if kind == lib.LP_JSON_BOOL:
            return bool(lib.lp_json_bool(node))
        if kind == lib.LP_JSON_NUMBER:
            return lib.lp_json_number(node)
        if kind == lib.LP_JSON_STRING:
            return text_of(lib.lp_json_string(node))
        if kind == lib.LP_JSON_ARRAY:
            return [convert(child) for child in children(node)]
        return {text_of(lib.lp_json_key(child)): convert(child) for child in children(node)}

    def run(data: bytes) -> Any:
        out = ffi.new("lp_json **")
        if lib.lp_json_parse(out, lp_str(data), lp_error) != lib.LP_OK:
            assert out[0] == ffi.NULL
            raise Refused(lp_error.code, ffi.string(lp_error.text).decode())
        try:
            return convert(lib.lp_json_root(out[0]))
        finally:
            lib.lp_json_free(out[0])

    return run


ACCEPTED = [
    b"[]", b"{}", b"null", b"true", b"false", b'""', b"0", b"-0", b"1", b" 1 ", b"\t[\n]\r\n",
    b"[[]   ]", b'[""]', b"[1,null,1,null]", b"[null, 1, \"1\", {}]", b"[\n1\n,\n2]",
    b'{"a":"b"}', b'{"a":"b","a":"c"}', b'{"a":"b","a":"b"}', b'{"":0}', b'{"a":[]}',
    b'{"foo\\u0000bar": 42}', b'{ "min": -1.0e+28, "max": 1.0e+28 }', b'{"x":{"y":{"z":[{}]}}}',
    b'{"asd":"sdf", "dfg":"fgh"}', b'{\n"a": "b"\n}', b"[0e+1]", b"[0e1]", b"[ 4]", b"[-0]",
    b"[-123]", b"[-1]", b"[1E22]", b"[1E-2]", b"[1E+2]", b"[123e45]", b"[123.456e78]", b"[1e-2]",
    b"[1e+2]", b"[123.456789]", b"[20e1]",
    b"[-0.000000000000000000000000000000000000000000000000000000000000000000000000000001]",
    b"[4.9406564584124654e-324]", b"[2.2250738585072011e-308]", b"[1.7976931348623157e308]",
    b"[9007199254740993]", b"[0.1,0.2,0.30000000000000004]", b"[1e-400]",
    b'["\\u0060\\u012a\\u12AB"]', b'["\\uD801\\udc37"]', b'["\\ud83d\\ude39\\ud83d\\udc8d"]',
    b'["\\"\\\\\\/\\b\\f\\n\\r\\t"]', b'["\\\\u0000"]', b'["\\""]', b'["a/*b*/c/*d//e"]',
    b'["\\\\a"]', b'["\\\\n"]', b'["\\u0012"]', b'["\\uFFFF"]', b'["\\uDBFF\\uDFFF"]',
    b'["new\\u00A0line"]', b'["\xf4\x8f\xbf\xbf"]', b'["\xef\xbf\xbf"]', b'["\\u0000"]',
    b'["\\u002c"]', b'["\xcf\x80"]', b'["\xf0\x9b\xbf\xbf"]', b'["asd "]', b'" "', b'["\\u0821"]',
    b'["\\u0123"]', b'["\xe2\x80\xa8"]', b'["\xe2\x80\xa9"]', b'["\\u0061\\u30af\\u30EA\\u30b9"]',
    b'["new\\u000Aline"]', b'["\x7f"]', b'["\\uA66D"]',
    b'["\xe2\x8d\x82\xe3\x88\xb4\xe2\x8d\x82"]', b'["\\u005C"]', b'["\\u0022"]', b'["\\u200B"]',
    b'["\\u2064"]', b'["\\uFDD0"]', b'["\\uFFFE"]', b'["a\x7fa"]', b"[" * DEPTH + b"]" * DEPTH,
    b'{"a":' * DEPTH + b"1" + b"}" * DEPTH, b"[" + b"1," * 9999 + b"1]",
    b"[" + b"[]," * 999 + b"{}]", b'["' + b"x" * 100000 + b'"]',
]  # fmt: skip

REFUSED = [
    b"", b" ", b"[1 true]", b"[a\xe5]", b'["": 1]', b'[""],', b"[,1]", b"[1,,2]", b'["x",,]',
    b'["x"]]', b'["",]', b'["x"', b"[x", b"[3[ 4]]", b"[\xff]", b"[1:2]", b"[,]", b"[-]",
    b"[   , \"\"]", b'["a",\n4\n,1,', b"[1,]", b"[1,,]", b"[*]", b'[""', b"[1,", b"[1,\n1\n,1",
    b"[{}", b"[fals]", b"[nul]", b"[tru]", b"[++1234]", b"[+1]", b"[+Inf]", b"[-01]", b"[-1.0.]",
    b"[-2.]", b"[-NaN]", b"[.-1]", b"[.2e-3]", b"[0.1.2]", b"[0.3e+]", b"[0.3e]", b"[0.e1]",
    b"[0E+]", b"[0E]", b"[0e+]", b"[0e]", b"[1.0e+]", b"[1.0e-]", b"[1.0e]", b"[1 000.0]",
    b"[1eE2]", b"[2.e+3]", b"[2.e-3]", b"[2.e3]", b"[9.e+]", b"[Inf]", b"[NaN]",
    b"[\xef\xbc\x91]", b"[1+2]", b"[0x1]", b"[0x42]", b"[Infinity]", b"[0e+-1]", b"[-123.123foo]",
    b"[123\xe5]", b"[1e1\xe5]", b"[0\xe5]", b"[-Infinity]", b"[-foo]", b"[- 1]", b"[-012]",
    b"[-.123]", b"[-1x]", b"[1ea]", b"[1e\xe5]", b"[1.]", b"[.123]", b"[1.2a-3]",
    b"[1.8011670033376514H-308]", b"[012]", b"[1e999]", b"[-1e400]", b'["x", truth]',
    b"{[: \"x\"}\n", b'{"x", null}', b'{"x"::"b"}', b"{\xf0\x9f\x87\xa8}", b'{"a":"a" 123}',
    b"{key: 'value'}", b'{"\xb9":"0",}', b'{"a" b}', b'{:"b"}', b'{"a" "b"}', b'{"a":', b'{"a"',
    b"{1:1}", b"{9999E9999:1}", b"{null:null,null:null}", b'{"id":0,,,,,}', b"{'a':0}",
    b'{"id":0,}', b'{"a":"b"}/**/', b'{"a":"b"}/**//', b'{"a":"b"}//', b'{"a":"b"}/',
    b'{"a":"b",,"c":"d"}', b'{a: "b"}', b'{"a":"a', b'{ "foo" : "bar", "a" }', b'{"a":"b"}#',
    b'"', b'["\\uD800\\"]', b'["\\uD800\\u"]', b'["\\uD800\\u1"]', b'["\\uD800\\u1x"]',
    b"[\xc3\xa9]", b'["\\x00"]', b'["\\\\\\"]', b'["\\\t"]', b'["\\\xf0\x9f\x8c\x80"]', b'["\\"]',
    b'["\\u00A"]', b'["\\uD834\\uDd"]', b'["\\uD800\\uD800\\x"]', b'["\\u\xe5"]', b'["\\a"]',
    b'["\\uqqqq"]', b'["\\\xe5"]', b"[\\u0020\"asd\"]", b"[\\n]", b'"', b"['single quote']",
    b"abc", b'["\\', b'["a\x00a"]', b'["\x1f"]', b'["new\nline"]', b'["\t"]', b'"\\UA66D"',
    b'""x', b"<.>", b"[<null>]", b"[1]x", b"[1]]", b'["asd]', b"a\xc3\xa5", b"[True]", b"1]",
    b'{"x": true,', b"[][]", b"]", b"\xef\xbb\xbf{}", b"\xef\xbb\xbf", b"\xe5", b"[", b'{"":',
    b"{", b"{]", b"{,", b"{[", b'{"a', b"{'a'", b'["\\{["\\{["\\{["\\{', b"\xe9", b"*",
    b'{"a":"b"}#{}', b"[\\u000A\"\"]", b'["x"', b"[\x0c]", b"[\xe2\x81\xa0]", b"[\xc2\xa0]",
    b'{"a":1 true}', b"2@", b"[1}", b"{\"a\":1]", b'["\xff"]', b'["\xc0\xaf"]',
    b'["\xed\xa0\x80"]', b'["\xf4\x90\x80\x80"]', b'["\xe0\x80\xaf"]',
    b'["\xfc\x80\x80\x80\x80\x80"]', b'["\x81"]', b'["\xe6\x97\xa5\xd1\x88\xfa"]',
    b'["\xf0\x9f\x98"]', b'{"a":1}}', b',', b':', b'""""', b'"a" "b"', b"\x00", b"[1]\x00",
    b"nullx", b"truefalse", b"--1", b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1),
    b'{"a":' * (DEPTH + 1) + b"1" + b"}" * (DEPTH + 1),
]  # fmt: skip


@pytest.mark.parametrize("data", ACCEPTED, ids=lambda data: repr(data[:40]))
def test_accepts_what_python_accepts(parse: Parse, data: bytes) -> None:
    assert parse(data) == json.loads(data, parse_int=float)  # ours are doubles, all of them


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data[:40]))
def test_refuses(parse: Parse, data: bytes) -> None:
    with pytest.raises(Refused):
        parse(data)


def test_every_prefix_of_a_document_is_refused(parse: Parse) -> None:
    data = b'{"a":[1.5e3,"x\\ud83d\\ude39\xc3\xa9",true,null,{"b":[]}],"c":false}'
    assert parse(data) == json.loads(data)
    for end in range(len(data)):
        with pytest.raises(Refused):
            parse(data[:end])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'"\\ud800"', "�"),
        (b'"\\udc00"', "�"),
        (b'"\\ud800abc"', "�abc"),
        (b'"\\ud800\\u0041"', "�A"),
        (b'"\\ud800\\ud800\\udc00"', "�\U00010000"),
        (b'"\\udc00\\ud800"', "��"),
        (b'{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
    ],
)
def test_choices_the_standard_leaves_open(parse: Parse, data: bytes, expected: Any) -> None:
    assert parse(data) == expected


@pytest.mark.parametrize("data", [b"[" * 1_000_000, b'{"a":' * 1_000_000, b'[{"a":' * 500_000])
def test_deep_nesting_is_refused_without_memory(
    lib: Any, ffi: Any, parse: Parse, data: bytes
) -> None:
    lib.lp_alloc_peak_reset()
    before = lib.lp_alloc_peak()
    with pytest.raises(Refused) as refused:
        parse(data)
    assert refused.value.args[0] == lib.LP_ERR_LIMIT
    assert lib.lp_alloc_peak() == before


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"1," * 100_000 + b"1]",
        b"[" + b"[]," * 100_000 + b"1]",
        b"{" + b'"":1,' * 100_000 + b'"":1}',
        b"," * 200_000,
        b'"' * 200_000,
        b'"' + b"," * 200_000 + b'"',
        b"[" + b'"",' * 100_000 + b"1]",
        b'"' + b"\\" * 200_001,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_memory_is_a_small_multiple_of_the_text(
    lib: Any, ffi: Any, parse: Parse, data: bytes
) -> None:
    live = lib.lp_alloc_live()
    lib.lp_alloc_peak_reset()
    with contextlib.suppress(Refused):
        parse(data)
    assert lib.lp_alloc_peak() - live <= 8 * len(data) + 256
    assert lib.lp_alloc_live() == live


def test_error_says_where(parse: Parse) -> None:
    with pytest.raises(Refused, match="at byte 7"):
        parse(b'{"a": 1x}')


def test_integers(lib: Any, ffi: Any, lp_str: Any) -> None:
    cases = [(b"0", 0), (b"-7", -7), (b"1e3", 1000), (b"9007199254740992", 2**53), (b"1.5", None),
             (b"1e300", None), (b'"1"', None), (b"null", None), (b"-0.0", 0),
             (b"9007199254740994", None)]  # fmt: skip
    for data, expected in cases:
        out = ffi.new("lp_json **")
        assert lib.lp_json_parse(out, lp_str(data), ffi.NULL) == lib.LP_OK
        number = ffi.new("int64_t *", 99)
        ok = lib.lp_json_integer(lib.lp_json_root(out[0]), number)
        assert (number[0] if ok else None) == expected, data
        lib.lp_json_free(out[0])


def test_get(lib: Any, ffi: Any, lp_str: Any) -> None:
    out = ffi.new("lp_json **")
    assert lib.lp_json_parse(out, lp_str('{"a":1,"b":[5],"a":2}'), ffi.NULL) == lib.LP_OK
    root = lib.lp_json_root(out[0])
    assert lib.lp_json_number(lib.lp_json_get(root, b"a")) == 2
    assert lib.lp_json_get(root, b"c") == ffi.NULL
    array = lib.lp_json_get(root, b"b")
    assert lib.lp_json_get(array, b"a") == ffi.NULL
    assert lib.lp_json_first(lib.lp_json_first(array)) == ffi.NULL  # a number has no children
    assert lib.lp_json_string(array).len == 0
    lib.lp_json_free(out[0])


def random_value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(7 if depth < 6 else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randint(-(2**40), 2**40)
    if kind == 2:
        return rng.choice([0.1, -1e300, 5e-324, rng.random(), rng.gauss(0, 1e9)])
    if kind < 5:
        points = [rng.choice([rng.randrange(128), rng.randrange(0x800, 0xD800), 0x1F600])
                  for _ in range(rng.randrange(20))]  # fmt: skip
        return "".join(map(chr, points))
    size = rng.randrange(6)
    if kind == 5:
        return [random_value(rng, depth + 1) for _ in range(size)]
    return {f"k{i}\n\u00e9": random_value(rng, depth + 1) for i in range(size)}


def test_random_documents_read_as_python_reads_them(parse: Parse) -> None:
    rng = random.Random(1)
    for _ in range(300):
        value = random_value(rng, 0)
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
            assert parse(text.encode()) == value


def test_damaged_documents_agree_with_python(parse: Parse) -> None:
    """One byte changed: both refuse, or both read the same."""
    rng = random.Random(2)
    checked = 0
    for _ in range(3000):
        data = bytearray(json.dumps(random_value(rng, 3)).encode())
        data[rng.randrange(len(data))] = rng.choice(b'[]{},:"\\0123eE+-. \x00\x1fntu\x80\xc3')
        try:
            # json.loads would guess UTF-16 from NUL bytes, so it is given text.
            expected = json.loads(bytes(data).decode(), parse_constant=lambda _: 1 / 0)
        except (ValueError, ZeroDivisionError, RecursionError):
            expected = Refused
        if expected is not Refused and ("inf" in repr(expected) or "\\ud" in repr(expected)):
            continue  # 1e999 and lone surrogates: ours are tested above
        try:
            found: Any = parse(bytes(data))
        except Refused:
            found = Refused
        assert found == expected, bytes(data)
        checked += 1
    assert checked > 2000


def test_failing_memory_is_reported(lib: Any, parse: Parse) -> None:
    live = lib.lp_alloc_live()
    for n in (0, 1):
        lib.lp_alloc_fail_at(n)
        with pytest.raises(Refused) as refused:
            parse(b'{"a":[1,2,3]}')
        assert refused.value.args[0] == lib.LP_ERR_MEMORY
    lib.lp_alloc_fail_at(-1)
    assert lib.lp_alloc_live() == live


def written(lib: Any, ffi: Any, c_text: Any, write: Callable[[Any], None]) -> bytes:
    buf = ffi.new("lp_buf *")
    lib.lp_buf_init(buf, 0)
    write(buf)
    data: bytes = c_text(buf)
    lib.lp_buf_free(buf)
    return data


def number_text(lib: Any, ffi: Any, c_text: Any, number: float) -> str:
    return written(lib, ffi, c_text, lambda buf: lib.lp_json_add_number(buf, number)).decode()


def test_numbers_written_read_back_exactly_and_shortest(lib: Any, ffi: Any, c_text: Any) -> None:
    rng = random.Random(3)
    numbers = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0**53, 1e22,
               1e23, 123456789.0, 1e15, 100.0, 1e-7, 4.35, 2.2250738585072014e-308]  # fmt: skip
    numbers += [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(2000)]
    numbers += [round(rng.random(), 4) for _ in range(200)]
    for number in numbers:
        text = number_text(lib, ffi, c_text, number)
        if not math.isfinite(number):
            assert text == "null"
            continue
        back = json.loads(text)
        assert struct.pack("<d", back) == struct.pack("<d", number) or (back == 0 == number), text
        digits = len(text.lower().split("e")[0].replace(".", "").strip("-0"))
        best = len(repr(number).lower().split("e")[0].replace(".", "").strip("-0"))
        assert digits <= best, (text, repr(number))
    assert number_text(lib, ffi, c_text, 100000.0) == "100000"
    for number in (math.nan, math.inf, -math.inf):
        text = number_text(lib, ffi, c_text, number)
        assert text == "null"


@pytest.mark.parametrize(
    "raw",
    [b"", b"plain", b'q"q\\', bytes(range(128)), "Grüße 🦙 \u2028".encode(), b"\xff\xfe", b"a\xc3",
     b"\xed\xa0\x80x", b"\xf0\x9f\x98", b"\x80" * 5, b"\xe2\x82"],
)  # fmt: skip
def test_strings_written_are_json_and_utf8(
    lib: Any, ffi: Any, lp_str: Any, c_text: Any, raw: bytes
) -> None:
    data = written(lib, ffi, c_text, lambda buf: lib.lp_json_add_string(buf, lp_str(raw)))
    assert json.loads(data.decode()) == raw.decode(errors="replace")
    assert not any(byte < 0x20 or byte == 0x7F for byte in data)
