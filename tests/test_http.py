"""The HTTP parser, the response writer, the guard and the thinking splitter, without sockets.

Every request is fed whole, byte by byte and in random cuts, and must be read the same way.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import email.utils
import http.client
import io
import itertools
import random
import re
from dataclasses import dataclass
from typing import Any

import pytest

MORE, HEAD, DONE, BAD = range(4)
BODY_MAX = 32 << 20


@dataclass(frozen=True)
class Parsed:
    """What came of one request: an error status, or the request."""

    status: int = 0
    path: bytes = b""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    keep_alive: bool = False
    rest: bytes = b""
    complete: bool = False


class Parser:
    """One lp_http_request, fed in pieces."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi, self.lib = ffi, lib
        self.request = ffi.new("lp_http_request *")
        lib.lp_http_init(self.request)

    def run(self, pieces: list[bytes]) -> Parsed:
        taken = self.ffi.new("size_t *")
        queue = [piece for piece in pieces if piece]
        event = MORE
        while event not in (DONE, BAD):
            data = queue.pop(0) if queue else b""
            buffer = self.ffi.new("char[]", max(len(data), 1))
            self.ffi.memmove(buffer, data, len(data))
            event = self.lib.lp_http_feed(self.request, buffer, len(data), taken)
            assert taken[0] <= len(data)
            rest = data[taken[0] :]
            if rest:
                queue.insert(0, rest)
            if event == MORE and not queue:
                return Parsed(complete=False)
        result = self.result(event, b"".join(queue))
        self.lib.lp_http_reset(self.request)
        return result

    def text(self, value: Any) -> bytes:
        return bytes(self.ffi.buffer(value.data, value.len)) if value.len else b""

    def result(self, event: int, rest: bytes) -> Parsed:
        r = self.request
        if event == BAD:
            assert self.ffi.string(r.reason)
            return Parsed(status=r.status, complete=True)
        fields = tuple(
            (self.text(r.fields[i].name), self.text(r.fields[i].value)) for i in range(r.n_fields)
        )
        body = self.text(r.body)
        return Parsed(0, self.text(r.path), fields, body, r.keep_alive, rest, complete=True)

    def close(self) -> None:
        self.lib.lp_http_free(self.request)


def cuts(data: bytes, rng: random.Random) -> list[list[bytes]]:
    """The ways a request may arrive."""
    ways = [[data]]
    if len(data) <= 4096:
        ways.append([data[i : i + 1] for i in range(len(data))])
    for _ in range(3):
        points = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
        bounds = [0, *points, len(data)]
        ways.append([data[a:b] for a, b in itertools.pairwise(bounds)])
    return ways


@pytest.fixture
def parse(ffi: Any, lib: Any) -> Any:
    """parse(bytes) -> Parsed, the same for every way of arriving."""
    rng = random.Random(7)

    def run(data: bytes) -> Parsed:
        results = []
        for way in cuts(data, rng):
            parser = Parser(ffi, lib)
            results.append(parser.run(way))
            parser.close()
        assert all(result == results[0] for result in results), data[:200]
        return results[0]

    return run


H = b"Host: localhost:8080\r\n"


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\n" + H + headers + b"\r\n" + body


GOOD = {
    "plain": (b"GET / HTTP/1.1\r\n" + H + b"\r\n", b"/", b"", True),
    "close": (b"GET / HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n", b"/", b"", False),
    "close in a list": (
        b"GET / HTTP/1.1\r\n" + H + b"Connection: foo , Close\r\n\r\n",
        b"/",
        b"",
        False,
    ),
    "1.0": (b"GET / HTTP/1.0\r\n" + H + b"\r\n", b"/", b"", False),
    "1.0 kept": (b"GET / HTTP/1.0\r\n" + H + b"Connection: keep-alive\r\n\r\n", b"/", b"", True),
    "query": (b"GET /a?b=c HTTP/1.1\r\n" + H + b"\r\n", b"/a", b"", True),
    "absolute": (b"GET http://localhost:8080/a HTTP/1.1\r\n" + H + b"\r\n", b"/a", b"", True),
    "absolute, no path": (b"GET http://localhost:8080 HTTP/1.1\r\n" + H + b"\r\n", b"/", b"", True),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", b"*", b"", True),
    "one empty line first": (b"\r\nGET / HTTP/1.1\r\n" + H + b"\r\n", b"/", b"", True),
    "length": (post(b"Content-Length: 5\r\n", b"hello"), b"/x", b"hello", True),
    "length 0": (post(b"Content-Length: 0\r\n"), b"/x", b"", True),
    "blanks around": (post(b"Content-Length: \t 5 \t\r\n", b"hello"), b"/x", b"hello", True),
    "no body": (post(b""), b"/x", b"", True),
    "chunks": (
        post(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        b"/x",
        b"hello world",
        True,
    ),
    "chunks, upper case": (
        post(b"transfer-encoding: Chunked\r\n", b"A\r\n0123456789\r\n0\r\n\r\n"),
        b"/x",
        b"0123456789",
        True,
    ),
    "chunk extension": (
        post(b"Transfer-Encoding: chunked\r\n", b"5;a=b;c\r\nhello\r\n0\r\n\r\n"),
        b"/x",
        b"hello",
        True,
    ),
    "chunk with zeros": (
        post(b"Transfer-Encoding: chunked\r\n", b"005\r\nhello\r\n000\r\n\r\n"),
        b"/x",
        b"hello",
        True,
    ),
    "bytes above ASCII in a value": (
        b"GET / HTTP/1.1\r\n" + H + b"X: \xe4\r\n\r\n",
        b"/",
        b"",
        True,
    ),
    "empty value": (b"GET / HTTP/1.1\r\n" + H + b"X:\r\n\r\n", b"/", b"", True),
    "identity": (
        post(b"Content-Encoding: identity\r\nContent-Length: 1\r\n", b"x"),
        b"/x",
        b"x",
        True,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_requests(parse: Any, name: str) -> None:
    data, path, body, keep_alive = GOOD[name]
    parsed = parse(data)
    assert parsed.complete
    assert parsed.status == 0
    assert (parsed.path, parsed.body, parsed.keep_alive) == (path, body, keep_alive)
    assert parsed.rest == b""


def test_what_follows_is_not_taken(parse: Any) -> None:
    for name in GOOD:
        parsed = parse(GOOD[name][0] + b"GET /next HTTP/1.1\r\n")
        assert parsed.rest == b"GET /next HTTP/1.1\r\n", name


def test_two_requests_on_one_parser(ffi: Any, lib: Any) -> None:
    parser = Parser(ffi, lib)
    for name in GOOD:
        assert parser.run([GOOD[name][0]]).body == GOOD[name][2], name
    parser.close()


def test_fields_are_lower_case_and_trimmed(parse: Any) -> None:
    parsed = parse(b"GET / HTTP/1.1\r\nHOST:  a\r\nX-Y_z.!: \t v w \t\r\n\r\n")
    assert parsed.fields == ((b"host", b"a"), (b"x-y_z.!", b"v w"))


TE = b"Transfer-Encoding: chunked\r\n"
BAD_REQUESTS: dict[str, tuple[bytes, int]] = {
    # request line
    "no version": (b"GET /\r\n" + H + b"\r\n", 400),
    "lower-case version": (b"GET / http/1.1\r\n" + H + b"\r\n", 400),
    "version 2": (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
    "version 1.2": (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 505),
    "version 0.9": (b"GET / HTTP/0.9\r\n" + H + b"\r\n", 505),
    "version 1.10": (b"GET / HTTP/1.10\r\n" + H + b"\r\n", 400),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space at the end": (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
    "tab": (b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "bytes above ASCII in the target": (b"GET /\xc0\xaf HTTP/1.1\r\n" + H + b"\r\n", 400),
    "authority form": (b"CONNECT localhost:80 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "asterisk with GET": (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
    "relative target": (b"GET a HTTP/1.1\r\n" + H + b"\r\n", 400),
    "https target": (b"GET https://localhost/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "target without host": (b"GET http:///a HTTP/1.1\r\n" + H + b"\r\n", 400),
    "method with a colon": (b"GE:T / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "no method": (b" / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    "two empty lines first": (b"\r\n\r\nGET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    # line ends and control characters
    "bare LF": (b"GET / HTTP/1.1\n" + H + b"\r\n", 400),
    "bare LF in the header": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "CR CR LF": (b"GET / HTTP/1.1\r\r\n" + H + b"\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "vertical tab": (b"GET / HTTP/1.1\r\n" + H + b"X: \x0b\r\n\r\n", 400),
    "DEL": (b"GET / HTTP/1.1\r\n" + H + b"X: \x7f\r\n\r\n", 400),
    # header lines
    "folded": (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", 400),
    "first line folded": (b"GET / HTTP/1.1\r\n X: a\r\n" + H + b"\r\n", 400),
    "space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\n" + H + b"abc\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\n" + H + b": a\r\n\r\n", 400),
    "name with a bracket": (b"GET / HTTP/1.1\r\n" + H + b"A[]: a\r\n\r\n", 400),
    "name above ASCII": (b"GET / HTTP/1.1\r\n" + H + b"\xc3\xa4: a\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "no Host in 1.0": (b"GET / HTTP/1.0\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400),
    "two Origins": (post(b"Origin: a\r\nOrigin: a\r\n"), 400),
    "two Content-Types": (post(b"Content-Type: a\r\nContent-Type: a\r\n"), 400),
    "two Sec-Fetch-Sites": (post(b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: none\r\n"), 400),
    "two Authorizations": (post(b"Authorization: a\r\nAuthorization: b\r\n"), 400),
    # length
    "length +5": (post(b"Content-Length: +5\r\n", b"hello"), 400),
    "length -1": (post(b"Content-Length: -1\r\n", b"hello"), 400),
    "length 0x5": (post(b"Content-Length: 0x5\r\n", b"hello"), 400),
    "length 1_0": (post(b"Content-Length: 1_0\r\n", b"0123456789"), 400),
    "length 05": (post(b"Content-Length: 05\r\n", b"hello"), 400),
    "length 5,5": (post(b"Content-Length: 5, 5\r\n", b"hello"), 400),
    "length 5 5": (post(b"Content-Length: 5 5\r\n", b"hello"), 400),
    "length empty": (post(b"Content-Length:\r\n", b"hello"), 400),
    "length 5.0": (post(b"Content-Length: 5.0\r\n", b"hello"), 400),
    "length in Arabic digits": (post("Content-Length: ٥\r\n".encode(), b"hello"), 400),
    "length past 64 bits": (post(b"Content-Length: 18446744073709551621\r\n", b"hello"), 400),
    "length too large": (post(b"Content-Length: %d\r\n" % (BODY_MAX + 1)), 413),
    "length 2^63": (post(b"Content-Length: 9223372036854775808\r\n"), 413),
    "twice the same length": (post(b"Content-Length: 5\r\n" * 2, b"hello"), 400),
    "two lengths": (post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello!"), 400),
    "length and chunked": (post(b"Content-Length: 5\r\n" + TE, b"0\r\n\r\n"), 400),
    "chunked and length": (post(TE + b"Content-Length: 5\r\n", b"0\r\n\r\n"), 400),
    "GET with a body": (b"GET / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\n\r\nx", 400),
    "OPTIONS with a body": (b"OPTIONS * HTTP/1.1\r\n" + H + TE + b"\r\n0\r\n\r\n", 400),
    # transfer coding
    "coding twice": (post(TE + TE, b"0\r\n\r\n"), 400),
    "coding listed twice": (post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), 400),
    "coding not last": (post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"), 400),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 400),
    "identity coding": (post(b"Transfer-Encoding: identity\r\n"), 400),
    "empty coding": (post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 400),
    "quoted chunked": (post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), 400),
    "trailing comma": (post(b"Transfer-Encoding: chunked,\r\n", b"0\r\n\r\n"), 400),
    "leading comma": (post(b"Transfer-Encoding: ,chunked\r\n", b"0\r\n\r\n"), 400),
    "parameter": (post(b"Transfer-Encoding: chunked;a=b\r\n", b"0\r\n\r\n"), 400),
    "null in the coding": (post(b"Transfer-Encoding: chunked\0\r\n", b"0\r\n\r\n"), 400),
    "vertical tab in the coding": (post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), 400),
    "space before the coding's colon": (post(b"Transfer-Encoding : chunked\r\n"), 400),
    "chunked in 1.0": (b"POST / HTTP/1.0\r\n" + H + TE + b"\r\n0\r\n\r\n", 400),
    # chunks
    "chunk size missing": (post(TE, b"\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size 0x5": (post(TE, b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size +5": (post(TE, b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size -5": (post(TE, b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size g": (post(TE, b"g\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size 5_": (post(TE, b"5_\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with a space before": (post(TE, b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with a space after": (post(TE, b"5 \r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size of 9 digits": (post(TE, b"000000005\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size of 64 bits and more": (post(TE, b"10000000000000005\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size too large": (post(TE, b"2000001\r\n"), 413),
    "chunk size line with LF": (post(TE, b"5\nhello\r\n0\r\n\r\n"), 400),
    "chunk size line with CR": (post(TE, b"5\rhello\r\n0\r\n\r\n"), 400),
    "chunk too long": (post(TE, b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "chunk too short": (post(TE, b"5\r\nhell\r\n0\r\n\r\n"), 400),
    "chunk ends in LF": (post(TE, b"5\r\nhello\n0\r\n\r\n"), 400),
    "chunk without end": (post(TE, b"5\r\nhello0\r\n\r\n"), 400),
    "extension without a name": (post(TE, b"5;\r\nhello\r\n0\r\n\r\n"), 400),
    "extension with LF": (post(TE, b"5;\nhello\r\n0\r\n\r\n"), 400),
    "extension with a bad name": (post(TE, b"5;a[=b\r\nhello\r\n0\r\n\r\n"), 400),
    "extension without a value": (post(TE, b"5;a=\r\nhello\r\n0\r\n\r\n"), 400),
    "extension too long": (post(TE, b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n"), 400),
    "trailer": (post(TE, b"0\r\nX: y\r\n\r\n"), 400),
    "trailer with a length": (post(TE, b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "trailer with Host": (post(TE, b"0\r\nHost: evil\r\n\r\n"), 400),
    "last chunk with LF": (post(TE, b"0\r\n\n"), 400),
    # other
    "compressed body": (post(b"Content-Encoding: gzip\r\nContent-Length: 1\r\n", b"x"), 415),
    "other expectation": (post(b"Expect: 200-ok\r\nContent-Length: 1\r\n", b"x"), 417),
    "65 header lines": (b"GET / HTTP/1.1\r\n" + H + b"X: y\r\n" * 64 + b"\r\n", 431),
    "long header": (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"y" * 16384 + b"\r\n\r\n", 431),
    "long request line": (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests(parse: Any, name: str) -> None:
    data, status = BAD_REQUESTS[name]
    parsed = parse(data)
    assert parsed.complete
    assert parsed.status == status


def test_limits_are_exact(parse: Any) -> None:
    longest = 8192 - len(b"GET / HTTP/1.1\r\n")
    assert parse(b"GET /" + b"a" * longest + b" HTTP/1.1\r\n" + H + b"\r\n").status == 0
    assert parse(b"GET /" + b"a" * (longest + 1) + b" HTTP/1.1\r\n" + H + b"\r\n").status == 414
    room = 16384 - len(H) - len(b"X: \r\n\r\n")
    assert parse(b"GET / HTTP/1.1\r\n" + H + b"X: " + b"y" * room + b"\r\n\r\n").status == 0
    assert parse(b"GET / HTTP/1.1\r\n" + H + b"X: " + b"y" * (room + 1) + b"\r\n\r\n").status == 431
    assert parse(b"GET / HTTP/1.1\r\n" + H + b"X: y\r\n" * 63 + b"\r\n").status == 0


def test_largest_bodies(ffi: Any, lib: Any) -> None:
    body = bytes(range(256)) * (BODY_MAX // 256)
    parser = Parser(ffi, lib)
    whole = parser.run([post(b"Content-Length: %d\r\n" % BODY_MAX), body])
    assert whole.body == body
    half = BODY_MAX // 2
    chunk = b"%x\r\n" % half
    parts = [post(TE), chunk, body[:half], b"\r\n", chunk, body[half:], b"\r\n"]
    assert parser.run([*parts, b"0\r\n\r\n"]).body == body
    assert parser.run([*parts, b"1\r\n"]).status == 413
    parser.close()


def test_truncated_requests_ask_for_more(ffi: Any, lib: Any) -> None:
    for name, (data, _path, _body, _keep) in GOOD.items():
        for end in range(len(data)):
            parser = Parser(ffi, lib)
            assert not parser.run([data[:end]]).complete, (name, end)
            parser.close()


def test_every_byte_changed_never_hides_a_second_request(ffi: Any, lib: Any) -> None:
    """A mutated request is refused, or its body is what its own header says."""
    data = post(TE, b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
    for at in range(len(data)):
        for byte in b"\0\t\n\r ,;:0159aF\x7f\xff":
            changed = data[:at] + bytes([byte]) + data[at + 1 :]
            parser = Parser(ffi, lib)
            parsed = parser.run([changed])
            parser.close()
            if parsed.complete and parsed.status == 0 and parsed.body:
                assert len(parsed.body) + len(parsed.rest) <= len(data)
                assert len(parsed.body) in (5, 6, 11), changed


def test_refused_memory_is_an_answer(ffi: Any, lib: Any) -> None:
    data = post(TE, b"5\r\nhello\r\n0\r\n\r\n")
    live = lib.lp_alloc_live()
    n = 0
    while True:
        parser = Parser(ffi, lib)
        lib.lp_alloc_fail_at(n)
        parsed = parser.run([data])
        lib.lp_alloc_fail_at(-1)
        parser.close()
        assert lib.lp_alloc_live() == live
        if parsed.status == 0:
            break
        assert parsed.status == 503
        n += 1
    assert n >= 2


# --- lists and responses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "token", "expected"),
    [
        ("gzip", "gzip", True),
        ("br, GZip ;q=0.5", "gzip", True),
        ("gzip;q=0", "gzip", False),
        ("gzip; q=0.000", "gzip", False),
        ("gzip;q=0.001", "gzip", True),
        ("xgzip, gzipx", "gzip", False),
        ("", "gzip", False),
        (",,gzip", "gzip", True),
    ],
)
def test_lists(lib: Any, lp_str: Any, text: str, token: str, expected: bool) -> None:
    assert lib.lp_http_list_has(lp_str(text), token.encode()) is expected


class FakeSocket:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, *_args: Any) -> io.BytesIO:
        return io.BytesIO(self.data)


def read_response(data: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(FakeSocket(data))  # type: ignore[arg-type]
    response.begin()
    return response, response.read()


def write_head(ffi: Any, lib: Any, **values: Any) -> bytes:
    out = ffi.new("lp_buf *")
    reply = ffi.new("lp_http_reply *", values)
    lib.lp_http_add_head(out, reply)
    data = bytes(ffi.buffer(out.data, out.len))
    lib.lp_buf_free(out)
    return data


def test_head_is_read_by_http_client(ffi: Any, lib: Any) -> None:
    kind = ffi.new("char[]", b"text/plain")
    head = write_head(ffi, lib, status=200, content_type=kind, length=5, now=0, no_store=True)
    response, body = read_response(head + b"hello")
    assert (response.status, response.reason, body) == (200, "OK", b"hello")
    assert response.headers["Connection"] == "close"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


def test_chunks_are_read_by_http_client(ffi: Any, lib: Any, lp_str: Any) -> None:
    head = write_head(ffi, lib, status=200, chunked=True, keep_alive=True)
    out = ffi.new("lp_buf *")
    for piece in (b"hello", b"", b"x" * 1000):
        lib.lp_http_add_chunk(out, lp_str(piece))
    lib.lp_http_add_last_chunk(out)
    data = bytes(ffi.buffer(out.data, out.len))
    lib.lp_buf_free(out)
    assert read_response(head + data)[1] == b"hello" + b"x" * 1000


def test_dates_equal_pythons(ffi: Any, lib: Any) -> None:
    rng = random.Random(3)
    times = [0, 86399, 86400, 951782400, 951868800, 1709164800, 4107542400, 253402300799]
    for now in times + [rng.randrange(253402300800) for _ in range(500)]:
        head = write_head(ffi, lib, status=200, now=now)
        date = re.search(rb"\r\nDate: (.*?)\r\n", head)
        assert date
        assert date[1].decode() == email.utils.formatdate(now, usegmt=True)


# --- the guard ----------------------------------------------------------------------------------


class Guard:
    def __init__(self, ffi: Any, lib: Any, lp_str: Any, **options: Any) -> None:
        self.ffi, self.lib = ffi, lib
        self.guard = ffi.new("lp_guard *")
        self.error = ffi.new("lp_error *")
        bound = options.get("bound")
        host = ffi.new("char[]", bound.encode()) if bound else ffi.NULL
        self.texts = [lp_str(name) for name in options.get("allow", ())]
        names = ffi.new("lp_str[]", self.texts) if self.texts else ffi.NULL
        key = lp_str(options.get("key", ""))
        port = options.get("port", 8080)
        self.code = lib.lp_guard_open(
            self.guard, host, port, names, len(self.texts), key, self.error
        )

    def request(self, raw: bytes, open_to_all: bool = False) -> tuple[int, bool]:
        request = self.ffi.new("lp_http_request *")
        self.lib.lp_http_init(request)
        taken = self.ffi.new("size_t *")
        event = self.lib.lp_http_feed(request, raw, len(raw), taken)
        assert event == HEAD, raw
        reason = self.ffi.new("char **")
        status = self.lib.lp_guard_check(self.guard, request, open_to_all, reason)
        key_ok = self.lib.lp_guard_key_ok(self.guard, request)
        self.lib.lp_http_free(request)
        return status, key_ok

    def check(self, host: str, extra: str = "", method: str = "GET", **options: Any) -> int:
        raw = f"{method} /x HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode("latin-1")
        return self.request(raw, **options)[0]

    def close(self) -> None:
        self.lib.lp_guard_close(self.guard)


@pytest.fixture
def guard(ffi: Any, lib: Any, lp_str: Any) -> Any:
    made: list[Guard] = []

    def make(**options: Any) -> Guard:
        made.append(Guard(ffi, lib, lp_str, **options))
        return made[-1]

    yield make
    for item in made:
        item.close()


OURS = ("localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LocalHost:8080")
FOREIGN = (
    "evil.example:8080",
    "localhost",
    "localhost:8081",
    "localhost:08080",
    "localhost:8080:8080",
    "localhost:",
    "localhost:80800",
    "localhost.:8080",
    "localhost.evil.example:8080",
    "127.0.0.1.nip.io:8080",
    "127.0.0.2:8080",
    "0.0.0.0:8080",
    "[::1]8080",
    "[::1]x:8080",
    "[::1",
    "[::]:8080",
    "::1:8080",
    "user@localhost:8080",
    "localhost:8080/x",
    "localhost:8080 ",
    "localhost:8080,evil",
    "2130706433:8080",
)


def test_hosts(guard: Any) -> None:
    ours = guard()
    for host in OURS:
        assert ours.check(host) == 0, host
    for host in FOREIGN:
        expected = 0 if host.strip() in OURS else 421  # blanks around a value do not belong to it
        assert ours.check(host, open_to_all=True) == expected, host
    assert ours.check("") == 400


def test_port_80_may_be_left_out(guard: Any) -> None:
    ours = guard(port=80)
    assert ours.check("localhost") == 0
    assert ours.check("localhost:80") == 0
    assert ours.check("localhost:8080") == 421


def test_allowed_hosts(guard: Any) -> None:
    ours = guard(allow=["chat.example", "Other.example:9000"])
    assert ours.check("CHAT.example") == 0
    assert ours.check("chat.example:8080") == 0
    assert ours.check("chat.example:9000") == 421
    assert ours.check("other.example:9000") == 0
    assert ours.check("other.example") == 421
    assert ours.check("other.example:8080") == 421
    assert ours.check("xchat.example") == 421


def test_bound_host(guard: Any) -> None:
    ours = guard(bound="192.168.1.5")
    assert ours.check("192.168.1.5:8080") == 0
    assert ours.check("192.168.1.6:8080") == 421
    assert guard(bound="fe80::1").check("[fe80::1]:8080") == 0


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\0b", "ä", "x" * 256])
def test_refused_host_names(guard: Any, name: str) -> None:
    assert guard(allow=[name]).code != 0


SITES = (None, "same-origin", "none", "same-site", "cross-site")
ORIGINS = (None, "http://{host}", "null", "http://evil.example")
MATRIX_HOSTS = ("localhost:8080", "127.0.0.1:8080", "evil.example:8080")


@pytest.mark.parametrize(
    ("host", "origin", "site"), list(itertools.product(MATRIX_HOSTS, ORIGINS, SITES))
)
def test_host_origin_site(guard: Any, host: str, origin: str | None, site: str | None) -> None:
    """The sixty rows: who is refused, and who may come in."""
    extra = "Content-Type: application/json\r\n"
    extra += f"Origin: {origin.format(host=host)}\r\n" if origin else ""
    extra += f"Sec-Fetch-Site: {site}\r\n" if site else ""
    expected = 0
    if host.startswith("evil"):
        expected = 421
    elif site in ("same-site", "cross-site") or origin in ("null", "http://evil.example"):
        expected = 403
    ours = guard()
    for method in ("POST", "GET", "OPTIONS"):
        assert ours.check(host, extra, method) == expected
    # Other sites may link to the page; nothing else.
    linked = 421 if host.startswith("evil") else 0
    assert ours.check(host, extra, "GET", open_to_all=True) == linked
    assert ours.check(host, extra, "POST", open_to_all=True) == expected


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8080", 0),
        ("https://localhost:8080", 0),
        ("HTTP://LOCALHOST:8080", 0),
        ("http://localhost", 403),
        ("http://localhost:8081", 403),
        ("http://localhost.evil.com", 403),
        ("http://localhost:8080.evil.com", 403),
        ("http://127.0.0.1.nip.io", 403),
        ("http://127.0.0.1:8080", 403),
        ("http://localhost:8080/", 403),
        ("http://localhost:8080 http://evil", 403),
        ("file://", 403),
        ("", 403),
        ("chrome-extension://abc", 403),
    ],
)
def test_origins(guard: Any, origin: str, status: int) -> None:
    extra = f"Content-Type: application/json\r\nOrigin: {origin}\r\n"
    assert guard().check("localhost:8080", extra, "POST") == status


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 0),
        ("Application/JSON; charset=UTF-8", 0),
        ('application/json;charset="utf-8"', 0),
        ("application/json;", 0),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/jsonx", 415),
        ("application/json, text/plain", 415),
        ("application/json; charset=latin-1", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_content_types(guard: Any, kind: str | None, status: int) -> None:
    extra = "" if kind is None else f"Content-Type: {kind}\r\n"
    assert guard().check("localhost:8080", extra, "POST") == status


def test_absolute_target_must_name_the_host(guard: Any) -> None:
    ours = guard()
    for target, status in [
        ("http://localhost:8080/x", 0),
        ("http://LOCALHOST:8080/x", 0),
        ("http://127.0.0.1:8080/x", 400),
        ("http://evil.example/x", 400),
        ("http://user@localhost:8080/x", 400),
    ]:
        raw = f"GET {target} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n".encode()
        assert ours.request(raw)[0] == status, target


KEY = "0123456789abcdefghij"


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (f"Authorization: Bearer {KEY}", True),
        (f"authorization: bearer {KEY}", True),
        (f"X-Api-Key: {KEY}", True),
        ("X: y", False),
        (f"Authorization: {KEY}", False),
        (f"Authorization: Basic {KEY}", False),
        (f"Authorization: Bearer {KEY}x", False),
        (f"Authorization: Bearer {KEY[:-1]}", False),
        ("Authorization: Bearer ", False),
        ("Authorization: Bearer", False),
        (f"Authorization: Bearer {KEY.upper()}", False),
        (f"Cookie: key={KEY}", False),
        (f"Authorization: Bearer wrong\r\nX-Api-Key: {KEY}", False),
    ],
)
def test_keys(guard: Any, header: str, accepted: bool) -> None:
    raw = f"GET /x HTTP/1.1\r\nHost: localhost:8080\r\n{header}\r\n\r\n".encode()
    assert guard(key=KEY).request(raw)[1] is accepted
    assert guard().request(raw)[1] is True


def test_short_keys_are_refused(guard: Any, ffi: Any) -> None:
    short = guard(key="0123456789abcde")
    assert short.code != 0
    assert "shorter than 16" in ffi.string(short.error.text).decode()
    assert guard(key="0123456789abcdef").code == 0


# --- thinking -----------------------------------------------------------------------------------


def split(ffi: Any, lib: Any, lp_str: Any, pieces: list[str], inside: bool) -> tuple[str, str]:
    state = ffi.new("lp_reasoning *")
    thinking, answer = ffi.new("lp_buf *"), ffi.new("lp_buf *")
    lib.lp_reasoning_init(state, inside)
    for piece in pieces:
        lib.lp_reasoning_feed(state, lp_str(piece), thinking, answer)
        for buf in (thinking, answer):  # whole characters at every moment
            bytes(ffi.buffer(buf.data, buf.len) if buf.len else b"").decode()
    lib.lp_reasoning_finish(state, thinking, answer)
    texts = [bytes(ffi.buffer(b.data, b.len)).decode() if b.len else "" for b in (thinking, answer)]
    lib.lp_buf_free(thinking)
    lib.lp_buf_free(answer)
    return texts[0], texts[1]


def split_reference(text: str, inside: bool) -> tuple[str, str]:
    """The same by a regular expression over the whole text."""
    if not inside:
        start = re.match(r"[ \n\r\t]*<think>", text)
        if not start:
            return "", text
        text = text[start.end() :]
    text = text.lstrip(" \n\r\t") if text.strip(" \n\r\t") else text
    end = re.search(r"[ \n\r\t]*</think>", text)
    if not end:
        return (text if text.strip(" \n\r\t") else ""), ""
    return text[: end.start()], text[end.end() :].lstrip(" \n\r\t")


THOUGHTS = [
    ("<think>\nhm\n</think>\n\nyes", False),
    ("<think></think>yes", False),
    ("  <think>a<b</thin</think> yes </think>", False),
    ("<<think>no</think>", False),
    ("yes <think>no</think>", False),
    ("<thin", False),
    ("<think", False),
    ("   ", False),
    ("<think>never ends", False),
    ("<think>never ends</thi", False),
    ("hm\n\n</think>\n\nyes", True),
    ("hm </ think> < /think></think>ä", True),
    ("ä ö\n\nü</think>\n€😀", True),
    ("<<</think>x", True),
    ("a </</think>x", True),
    ("no end", True),
    ("", True),
    ("", False),
]


@pytest.mark.parametrize(("text", "inside"), THOUGHTS)
def test_thinking(ffi: Any, lib: Any, lp_str: Any, text: str, inside: bool) -> None:
    expected = split_reference(text, inside)
    rng = random.Random(5)
    ways = [[text], list(text)]
    for _ in range(20):
        points = sorted(rng.randrange(len(text) + 1) for _ in range(3))
        ways.append([text[a:b] for a, b in itertools.pairwise([0, *points, len(text)])])
    for way in ways:
        assert split(ffi, lib, lp_str, way, inside) == expected, way


def test_long_blanks_are_kept(ffi: Any, lib: Any, lp_str: Any) -> None:
    blanks = "\n" * 500
    assert split(ffi, lib, lp_str, [f"<think>a{blanks}b</think>c"], False) == (f"a{blanks}b", "c")
    assert split(ffi, lib, lp_str, [f"{blanks}c"], False) == ("", f"{blanks}c")


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>", True),
        ("<think>\n\n</think>\n\n", False),
        ("assistant\n", False),
        ("", False),
    ],
)
def test_opened_thinking(lib: Any, lp_str: Any, prompt: str, opened: bool) -> None:
    assert lib.lp_reasoning_opened(lp_str(prompt)) is opened
