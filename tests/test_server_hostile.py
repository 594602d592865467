"""A packed executable as a server under fire: other sites, broken HTTP, hostile JSON, slow clients,
too many of them. After everything the next plain request must be served.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Server, chat_body, raise_descriptor_limit, read_replies
from test_http import BAD_REQUESTS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and descriptor limits")


@pytest.fixture(scope="module")
def server(packed_smollm2: Path) -> Iterator[Server]:
    with Server(packed_smollm2, "-c", "512", "--parallel", "2") as running:
        yield running
        assert running.process.poll() is None, "the server died"


@pytest.fixture(autouse=True)
def still_serving(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        server: Server = request.getfixturevalue("server")
        assert server.get("/health").status == 200


# --- other sites ---------------------------------------------------------------------------------

HOSTS = ("127.0.0.1:{port}", "localhost:{port}", "evil.example:{port}", "127.0.0.1:1")
ORIGINS = (None, "http://{host}", "null", "http://evil.example")
SITES = (None, "same-origin", "none", "same-site", "cross-site")


def verdict(host: str, origin: str | None, site: str | None) -> int:
    if host not in HOSTS[:2]:
        return 421
    foreign = origin in ("null", "http://evil.example") or site in ("same-site", "cross-site")
    return 403 if foreign else 200


@pytest.mark.parametrize(("host", "origin", "site"), list(itertools.product(HOSTS, ORIGINS, SITES)))
def test_host_origin_site(server: Server, host: str, origin: str | None, site: str | None) -> None:
    name = host.format(port=server.port)
    headers = {"Host": name}
    headers |= {"Origin": origin.format(host=name)} if origin else {}
    headers |= {"Sec-Fetch-Site": site} if site else {}
    expected = verdict(host, origin, site)
    posted = server.post("/detokenize", {"tokens": [1, 2]}, headers)
    replies = {
        "post": posted,
        "info": server.get("/api/info", headers),
        "models": server.get("/v1/models", headers),
        "preflight": server.request(
            "OPTIONS", "/detokenize", None, {**headers, "Access-Control-Request-Method": "POST"}
        ),
    }
    for what, reply in replies.items():
        allowed = 204 if what == "preflight" else 200
        assert reply.status == (allowed if expected == 200 else expected), what
        assert not [key for key in reply.headers if key.startswith("access-control")]
        if expected != 200:
            # Nothing of the model, the page or the answer.
            assert set(reply.json()) == {"error"}
            assert b"SmolLM" not in reply.body
    # Files of the page may be linked to, but only under our own name.
    page = server.get("/", headers)
    assert page.status == (421 if expected == 421 else 200)


def test_page_headers(server: Server) -> None:
    reply = server.get("/")
    parts = [part.split() for part in reply.headers["content-security-policy"].split(";")]
    policy = {words[0]: words[1:] for words in parts}
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == ["'self'"]
    assert policy["style-src"] == ["'self'"]
    assert policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert policy["base-uri"] == ["'none'"]
    assert policy["form-action"] == ["'none'"]
    assert policy["require-trusted-types-for"] == ["'script'"]
    for value in policy.values():
        assert "'unsafe-inline'" not in value
        assert "'unsafe-eval'" not in value
        assert "*" not in value
    for path in ("/", "/health", "/v1/models", "/nothing"):
        headers = server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert server.get("/health").headers["cache-control"] == "no-store"
    assert server.get("/nothing").headers["content-type"].startswith("application/json")


def test_page_encodings(server: Server) -> None:
    plain = server.get("/")
    packed = server.get("/", {"Accept-Encoding": "br, gzip"})
    assert plain.status == packed.status == 200
    assert plain.headers["content-type"] == "text/html; charset=utf-8"
    assert "content-encoding" not in plain.headers
    assert b"<html" in plain.body
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    tag = plain.headers["etag"]
    again = server.get("/", {"If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")
    assert server.get("/", {"If-None-Match": '"other"'}).body == plain.body
    head = server.request("HEAD", "/")
    assert head.headers["content-length"] == str(len(plain.body))


@pytest.mark.parametrize(
    "path",
    ["/../etc/passwd", "/web/index.html", "/%2e%2e/x", "/index.html/", "//", "/./", "/model.gguf",
     "/manifest.json", "/..%5cx", "/INDEX.HTML", "/health/", "//health", "/v1/../health"],
)  # fmt: skip
def test_paths_that_are_nothing(server: Server, path: str) -> None:
    assert server.get(path).status == 404


def test_methods(server: Server) -> None:
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "FOO"):
        assert server.request(method, "/health").status == 501
    assert server.request("POST", "/health", b"{}").status == 405
    reply = server.get("/v1/chat/completions")
    assert reply.status == 405
    assert "POST" in reply.headers["allow"]
    head = server.request("HEAD", "/health")
    assert head.status == 200
    assert int(head.headers["content-length"]) > 0
    options = server.request("OPTIONS", "*")
    assert options.status == 204
    assert "GET" in options.headers["allow"]


# --- broken HTTP ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_broken_requests_are_answered_and_end_the_connection(server: Server, name: str) -> None:
    data, status = BAD_REQUESTS[name]
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: " + server.host.encode() + b"\r\n\r\n"
    with server.connect(10) as sock:
        sock.sendall(data.replace(b"localhost:8080", server.host.encode()) + smuggled)
        replies = list(read_replies(sock))
    # Some are refused for what they ask (no such path) before the body shows its fault.
    assert [reply.status for reply in replies][-1] in (status, 404, 405, 415)
    assert len(replies) == 1, "a second request was read out of a broken one"
    assert replies[0].headers["connection"] == "close"
    assert replies[0].closed


def test_broken_bodies_reach_no_handler(server: Server) -> None:
    cases = [case for case in BAD_REQUESTS.values() if b"chunked" in case[0]]
    for data, _status in cases:
        raw = data.replace(b"POST /x", b"POST /tokenize").replace(
            b"localhost:8080", server.host.encode() + b"\r\nContent-Type: application/json"
        )
        with server.connect(10) as sock:
            sock.sendall(raw)
            (reply,) = list(read_replies(sock))
        assert reply.status in (400, 413), raw
        assert reply.closed


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    body = json.dumps({"content": "Hello"}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    requests = [
        server.head("GET", "/health"),
        server.head("POST", "/tokenize", headers) + body,
        server.head("GET", "/nothing"),
        server.head("OPTIONS", "*"),
    ]
    with server.connect() as sock:
        sock.sendall(
            b"".join(requests[:4]) + server.head("GET", "/v1/models", {"Connection": "close"})
        )
        replies = list(read_replies(sock))
    assert [reply.status for reply in replies] == [200, 200, 404, 204, 200]
    assert "tokens" in replies[1].json()
    assert replies[4].json()["object"] == "list"


def test_requests_byte_by_byte(server: Server) -> None:
    body = json.dumps({"content": "Hello"}).encode()
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    data = server.head("POST", "/tokenize", {**headers, "Connection": "close"})
    data += b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n"
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            sock.sendall(data[i : i + 1])
        (reply,) = list(read_replies(sock))
    assert reply.json()["tokens"]


def test_continue(server: Server) -> None:
    body = json.dumps({"content": "Hello"}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    with server.connect() as sock:
        head = server.head(
            "POST", "/tokenize", {**headers, "Expect": "100-continue", "Connection": "close"}
        )
        sock.sendall(head)
        time.sleep(0.2)
        sock.sendall(body)
        replies = list(read_replies(sock))
    assert [reply.status for reply in replies] == [100, 200]
    # A refused request is refused before its body is asked for.
    with server.connect() as sock:
        sock.sendall(server.head("POST", "/nothing", {**headers, "Expect": "100-continue"}))
        (reply,) = list(read_replies(sock))
    assert reply.status == 404


def test_large_bodies(server: Server) -> None:
    limit = 32 << 20
    headers = {"Content-Type": "application/json"}
    too_large = server.raw(
        server.head("POST", "/tokenize", {**headers, "Content-Length": str(limit + 1)}), timeout=10
    )
    assert [reply.status for reply in too_large] == [413]
    body = b'{"content": "x", "pad": "' + b"y" * (limit - 27) + b'"}'
    assert len(body) == limit
    reply = server.request("POST", "/tokenize", body)
    assert reply.status == 200
    assert len(reply.json()["tokens"]) == 1
    text = json.dumps({"content": "z" * (5 << 20)}).encode()
    assert server.request("POST", "/tokenize", text).status == 400


# --- hostile JSON --------------------------------------------------------------------------------

BAD_JSON = {
    "empty": b"",
    "blank": b"  ",
    "not JSON": b"hello",
    "array": b"[]",
    "string": b'"x"',
    "number": b"5",
    "null": b"null",
    "cut": b'{"content": "x"',
    "cut in a string": b'{"content": "x',
    "two values": b'{"content": "x"} {}',
    "trailing comma": b'{"content": "x",}',
    "single quotes": b"{'content': 'x'}",
    "BOM": b'\xef\xbb\xbf{"content": "x"}',
    "Latin-1": b'{"content": "\xe4"}',
    "overlong": b'{"content": "\xc0\xaf"}',
    "surrogate bytes": b'{"content": "\xed\xa0\x80"}',
    "beyond Unicode": b'{"content": "\xf4\x90\x80\x80"}',
    "UTF-16": '{"content": "x"}'.encode("utf-16"),
    "NUL": b'{"content": "x\0"}',
    "control character": b'{"content": "x\n"}',
    "bad escape": b'{"content": "\\x"}',
    "cut escape": b'{"content": "\\u12"}',
    "NaN": b'{"content": NaN}',
    "hex": b'{"content": 0x10}',
    "comment": b'{"content": "x" /* y */}',
    "deep arrays": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 200_000,
    "deep in an ignored field": b'{"content": "x", "y": ' + b"[" * 65 + b"]" * 65 + b"}",
    "many fields": b"{" + b",".join(b'"a%d":1' % i for i in range(300)) + b"}",
    "huge number": b'{"content": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json(server: Server, name: str) -> None:
    for path in ("/tokenize", "/v1/chat/completions", "/detokenize", "/v1/completions"):
        reply = server.request("POST", path, BAD_JSON[name])
        assert reply.status == 400, path
        message = reply.error()["message"]
        assert "\n" not in message
        assert len(message) < 512


def test_duplicate_keys_and_surrogates(server: Server) -> None:
    reply = server.request("POST", "/tokenize", b'{"content": 5, "content": "a"}')
    assert reply.status in (200, 400)  # the last one counts, or the wrong one is named
    lone = server.request("POST", "/tokenize", b'{"content": "\\ud800"}').json()
    replaced = server.request("POST", "/tokenize", '{"content": "\ufffd"}'.encode()).json()
    assert lone == replaced


def test_error_texts_are_clean(server: Server) -> None:
    """What a client sends comes back at most as clean text."""
    hostile = "<script>\u001b[31m\u202e\"'\\"
    message = {"role": "user", "content": [{"type": hostile, "text": "x"}]}
    reply = server.post("/v1/chat/completions", {"messages": [message]})
    assert reply.status == 400
    assert reply.headers["content-type"].startswith("application/json")
    assert "\u001b" not in reply.error()["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_other_types_are_refused(server: Server, kind: str | None) -> None:
    headers = {"Content-Length": "2", **({"Content-Type": kind} if kind else {})}
    (reply,) = server.raw(server.head("POST", "/api/quit", headers) + b"{}", timeout=10)
    assert reply.status == 415


# --- slow, stalled and many clients --------------------------------------------------------------


def test_slow_loris(server: Server) -> None:
    """Fifty clients that send a byte now and then hold nobody up and are cut off."""
    socks = [server.connect(30) for _ in range(50)]
    begin = time.monotonic()
    head = server.head("GET", "/health", {"X": "y" * 100})
    times = []
    for step in range(4):
        for sock in socks:
            sock.sendall(head[step : step + 1])
        asked = time.monotonic()
        assert server.get("/health").status == 200
        times.append(time.monotonic() - asked)
        time.sleep(1)
    assert sorted(times)[2] < 0.25
    for sock in socks:
        data = b""
        while part := sock.recv(4096):
            data += part
        assert data.startswith(b"HTTP/1.1 408 ")
        sock.close()
    # The refusal and two seconds of reading on, on a machine that may be busy.
    assert 8 < time.monotonic() - begin < 20


def test_too_many_connections(server: Server) -> None:
    raise_descriptor_limit()
    socks: list[socket.socket] = []
    try:
        for _ in range(1000):
            socks.append(server.connect(10))
        time.sleep(0.5)
        extra = server.connect(10)
        socks.append(extra)
        (reply,) = list(read_replies(extra))
        assert reply.status == 503
        assert reply.headers["retry-after"]
        # Those that are in are served.
        for i in (0, 499, 999):
            socks[i].sendall(server.head("GET", "/health", {"Connection": "close"}))
            assert next(read_replies(socks[i])).status == 200
        memory = resident_bytes(server)
    finally:
        for sock in socks:
            sock.close()
    time.sleep(0.5)
    assert memory - resident_bytes(server) < 64 << 20
    assert thread_count(server) < 16


def resident_bytes(server: Server) -> int:
    return proc_status(server, "RssAnon") * 1024


def thread_count(server: Server) -> int:
    return proc_status(server, "Threads")


def proc_status(server: Server, name: str) -> int:
    path = Path(f"/proc/{server.process.pid}/status")
    if not path.exists():
        pytest.skip("no /proc")
    (line,) = [line for line in path.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def descriptors(server: Server) -> int:
    path = Path(f"/proc/{server.process.pid}/fd")
    if not path.exists():
        pytest.skip("no /proc")
    return len(list(path.iterdir()))


def test_resets_leak_nothing(server: Server) -> None:
    """Streams and requests cut by RST, by the hundred: descriptors come back, slots are free."""
    server.get("/health")
    before = descriptors(server)
    body = json.dumps(chat_body("Tell me a story.", stream=True, ignore_eos=True)).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    whole = server.head("POST", "/v1/chat/completions", headers) + body
    for i in range(300):
        sock = server.connect(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(whole[: i * 7 % len(whole)] if i % 3 else whole)
        sock.close()
    begin = time.monotonic()
    assert server.chat("Say hi.", max_tokens=4)["choices"]
    assert time.monotonic() - begin < 20
    time.sleep(0.5)
    assert descriptors(server) <= before + 2


def test_too_many_requests_wait(server: Server) -> None:
    """The queue has an end: who comes later is told to come again, nobody is lost."""
    statuses: list[int] = []
    lock = threading.Lock()

    def ask() -> None:
        reply = server.post("/v1/chat/completions", chat_body("Count.", max_tokens=2))
        with lock:
            statuses.append(reply.status)
            if reply.status == 503:
                assert reply.headers["retry-after"]

    threads = [threading.Thread(target=ask) for _ in range(90)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 90
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 64


def test_garbage(server: Server) -> None:
    """Random bytes never hang or kill it."""
    import random

    rng = random.Random(11)
    for _ in range(50):
        with server.connect(15) as sock:
            sock.sendall(rng.randbytes(rng.randrange(1, 3000)) + b"\r\n\r\n")
            try:
                data = sock.recv(4096)
            except ConnectionResetError:
                continue
            assert data.startswith(b"HTTP/1.1 4") or data == b""
