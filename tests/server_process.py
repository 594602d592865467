"""A packed executable as a server: started, asked, stopped. Shared by the test_server files.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60.0


@dataclass
class Reply:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes
    closed: bool  # the server closed the connection after it

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        error = self.json()["error"]
        assert isinstance(error, dict)
        assert error["code"] == self.status
        assert isinstance(error["message"], str)
        return error


class Server:
    """A running `serve`; use as a context manager."""

    def __init__(
        self,
        executable: Path,
        *arguments: str,
        command: str = "serve",
        runner: tuple[str, ...] = (),  # what runs a program of another system: wine
        env: dict[str, str] | None = None,
    ) -> None:
        words = [*runner, str(executable), *([command] if command else [])]
        words += ["--port", "0", "--no-browser"]
        self.process = subprocess.Popen(
            [*words, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=raise_descriptor_limit,
            env=env,
        )
        self.lines: list[str] = []
        self.found: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read_lines, daemon=True)
        self.reader.start()
        self.url = self._wait_for_url().rstrip("/")
        self.port = int(self.url.rsplit(":", 1)[1])
        self.host = f"127.0.0.1:{self.port}"

    def _read_lines(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            for raw in lines:
                line = raw.decode(errors="replace")
                self.lines.append(line)
                if match := re.search(r"ready at (http://\S+)", line):
                    self.found.put(match[1])
        self.found.put("")

    def _wait_for_url(self) -> str:
        url = self.found.get(timeout=START_SECONDS)
        assert url, "".join(self.lines)
        return url

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, sign: int = signal.SIGTERM) -> float:
        """Ends the process; returns the seconds it took."""
        begin = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        seconds = time.monotonic() - begin
        self.reader.join(timeout=20)  # the pipe has ended with the process
        if self.process.stderr:
            self.process.stderr.close()
        return seconds

    # --- asking -----------------------------------------------------------------------------

    def connect(self, timeout: float = 60.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 60.0) -> list[Reply]:
        """Sends bytes as they are; every reply until the close or half a quiet second."""
        with self.connect(timeout) as sock:
            sock.sendall(data)
            return list(read_replies(sock))

    def head(self, method: str, path: str, headers: dict[str, str] | None = None) -> bytes:
        lines = {"Host": self.host, **(headers or {})}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
        return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 120.0,
    ) -> Reply:
        lines = {"Connection": "close"}
        if body is not None:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        data = self.head(method, path, {**lines, **(headers or {})}) + (body or b"")
        with self.connect(timeout) as sock:
            sock.sendall(data)
            replies = list(read_replies(sock, head_only=method == "HEAD"))
        assert len(replies) == 1, replies
        return replies[0]

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.request("GET", path, None, headers)

    def post(self, path: str, value: Any, headers: dict[str, str] | None = None) -> Reply:
        return self.request("POST", path, json.dumps(value).encode(), headers)

    def chat(self, text: str, **fields: Any) -> dict[str, Any]:
        reply = self.post("/v1/chat/completions", chat_body(text, **fields))
        assert reply.status == 200, reply.body
        value = reply.json()
        assert isinstance(value, dict)
        return value

    def stream(self, path: str, value: Any) -> list[Any]:
        """The events of a stream; the last is the string "[DONE]" or an error object."""
        reply = self.post(path, {**value, "stream": True})
        assert reply.status == 200, reply.body
        assert reply.headers["content-type"].startswith("text/event-stream")
        return read_events(reply.body)


def chat_body(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def read_events(body: bytes) -> list[Any]:
    events: list[Any] = []
    for block in body.decode().split("\n\n"):
        if not block:
            continue
        assert block.startswith("data: "), block
        data = block.removeprefix("data: ")
        events.append(data if data == "[DONE]" else json.loads(data))
    return events


def read_replies(sock: socket.socket, head_only: bool = False) -> Iterator[Reply]:
    """Replies as they come, by Content-Length, chunks or the close."""
    reader = Reader(sock)
    quiet = None  # the first reply may take its time
    while (head := reader.next_head(quiet)) is not None:
        quiet = 0.5
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {
            name.lower(): value.strip() for name, _, value in (s.partition(":") for s in lines[1:])
        }
        if status == 100:
            yield Reply(status, headers, b"", False)
            continue
        body = b"" if head_only or status in (204, 304) else reader.body(headers)
        closed = headers.get("connection") == "close"
        yield Reply(status, headers, body, closed and reader.at_end())
        if closed:
            return


class Reader:
    """Bytes of a socket, with a look ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.data, self.ended = sock, b"", False

    def more(self) -> bool:
        try:
            part = self.sock.recv(65536)
        except (TimeoutError, ConnectionResetError):
            part = b""
        self.ended = self.ended or not part
        self.data += part
        return bool(part)

    def next_head(self, quiet: float | None) -> bytes | None:
        """A reply's head, or None if nothing more comes (within `quiet` seconds)."""
        if not self.data and not self.ended and quiet is not None:
            before = self.sock.gettimeout()
            self.sock.settimeout(quiet)
            self.more()
            self.sock.settimeout(before)
            if not self.data:
                return None
        if not self.data and not self.more():
            return None
        return self.until(b"\r\n\r\n")

    def until(self, mark: bytes) -> bytes:
        while mark not in self.data:
            assert self.more(), f"the reply is cut: {self.data[:200]!r}"
        part, _, self.data = self.data.partition(mark)
        return part

    def exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            assert self.more(), "the reply is cut short"
        part, self.data = self.data[:size], self.data[size:]
        return part

    def body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self.exactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.until(b"\r\n"), 16):
                parts.append(self.exactly(size))
                assert self.exactly(2) == b"\r\n"
            assert self.exactly(2) == b"\r\n"
            return b"".join(parts)
        while self.more():
            pass
        data, self.data = self.data, b""
        return data

    def at_end(self) -> bool:
        self.sock.settimeout(5)
        while self.more():
            pass
        return self.ended and not self.data


def raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
