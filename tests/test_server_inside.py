"""The server inside this process, on a tiny model: ending by itself, templates that think, refused
allocations, memory given back.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from engine_session import Session

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is not defined or enable_thinking %}<think>\n"
    "{% endif %}{{ colour }}"
)


class Inside:
    """lp_server_run in a thread of its own."""

    def __init__(self, native: Any, session: Session, **options: Any) -> None:
        self.ffi, self.lib = native.ffi, native.lib
        ffi, lib = self.ffi, self.lib
        self.err = ffi.new("lp_error *")
        self.keep: list[Any] = []
        server = ffi.new("lp_server **")
        listen = ffi.new("lp_listen_params *", {"port": 0})
        session.check(lib.lp_server_listen(server, listen, self.err))
        self.server = server[0]
        self.port = lib.lp_server_port(self.server)
        template = ffi.new("lp_template **")
        source = self.text(options.get("template", THINKS))
        session.check(lib.lp_template_open(template, source, self.err))
        self.template = template[0]
        self.params = ffi.new("lp_server_params *")
        p = self.params
        p.engine, p.vocab, p.tmpl = session.engine, session.open_vocab(), self.template
        p.name, p.instance = self.c_string("tiny"), self.c_string("inside")
        p.version, p.sandbox = self.c_string("0"), self.c_string("none")
        lib.lp_sampling_default(ffi.addressof(p, "sampling"))
        p.idle_exit_seconds = options.get("idle", 0)
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.lib.lp_server_run(self.server, self.params, self.err)

    def c_string(self, text: str) -> Any:
        self.keep.append(self.ffi.new("char[]", text.encode()))
        return self.keep[-1]

    def text(self, text: str) -> Any:
        data = self.c_string(text)
        return self.ffi.new("lp_str *", {"data": data, "len": len(text.encode())})[0]

    def ask(self, method: str, path: str, value: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            body = None if value is None else json.dumps(value)
            headers = {} if value is None else {"Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            raw = response.read()
            is_json = (response.getheader("Content-Type") or "").startswith("application/json")
            return response.status, json.loads(raw) if is_json else raw
        finally:
            connection.close()

    def chat(self, **fields: Any) -> tuple[int, Any]:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, **fields}
        return self.ask("POST", "/v1/chat/completions", {"temperature": 0, **body})

    def close(self) -> None:
        self.lib.lp_server_stop(self.server)
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()
        self.lib.lp_server_close(self.server)
        self.lib.lp_template_close(self.template)


@pytest.fixture(scope="module")
def session(native: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny_model.build("llama", "Q8_0", seed=1).save(Path(path))
    with Session(native, path, n_ctx=256, n_seq=2) as opened:
        opened.open_vocab()
        yield opened


@contextlib.contextmanager
def running(native: Any, session: Session, **options: Any) -> Iterator[Inside]:
    live = native.lib.lp_alloc_live()
    server = Inside(native, session, **options)
    try:
        yield server
    finally:
        server.close()
    assert server.code == 0
    assert native.lib.lp_alloc_live() == live, "memory was not given back"


def test_ends_when_nobody_is_there(native: Any, session: Session) -> None:
    with running(native, session, idle=0.6) as server:
        for _ in range(8):
            time.sleep(0.2)
            assert server.ask("POST", "/api/presence", {}) == (200, {})
        assert server.thread.is_alive(), "an open page keeps it going"
        server.thread.join(timeout=3)
        assert not server.thread.is_alive()
        assert server.code == 0


def test_an_answer_under_way_keeps_it_going(native: Any, session: Session) -> None:
    with running(native, session, idle=0.2) as server:
        status, value = server.chat(max_tokens=200, ignore_eos=True)
        assert status == 200
        assert value["usage"]["completion_tokens"] == 200


def test_quit(native: Any, session: Session) -> None:
    with running(native, session) as server:
        assert server.ask("POST", "/api/quit", {})[0] == 200
        server.thread.join(timeout=3)
        assert not server.thread.is_alive()


def test_without_a_page(native: Any, session: Session) -> None:
    with running(native, session) as server:
        status, text = server.ask("GET", "/")
        assert status == 200
        assert b"no page" in text
        assert server.ask("GET", "/index.html")[0] == 404


def test_thinking_opened_by_the_template(native: Any, session: Session) -> None:
    with running(native, session) as server:
        assert server.ask("GET", "/api/info")[1]["thinking"] is True
        raw = server.chat(reasoning_format="none", ignore_eos=True)[1]["choices"][0]["message"]
        split = server.chat(ignore_eos=True)[1]["choices"][0]["message"]
        # The tiny model never closes the block: all of it is thinking.
        assert "reasoning_content" not in raw
        assert split["content"] == ""
        assert split["reasoning_content"] == raw["content"].lstrip(" \n\r\t")
        off = {"enable_thinking": False}
        plain = server.chat(chat_template_kwargs=off, ignore_eos=True)[1]["choices"][0]["message"]
        assert "reasoning_content" not in plain
        assert plain["content"]


def test_template_variables(native: Any, session: Session) -> None:
    with running(native, session) as server:

        def count(**kwargs: Any) -> int:
            status, value = server.chat(max_tokens=1, chat_template_kwargs=kwargs)
            assert status == 200, value
            return int(value["usage"]["prompt_tokens"])

        assert count() < count(colour="xyzw") < count(colour="xyzwxyzw")
        assert count() < count(colour=12.5)
        assert count(other=True) == count()


def test_broken_template_is_an_error_of_the_request(native: Any, session: Session) -> None:
    with running(native, session, template="{{ raise_exception('no such turn') }}") as server:
        status, value = server.chat()
        assert status == 400
        assert "no such turn" in value["error"]["message"]
        assert server.ask("GET", "/health")[0] == 200


def test_refused_allocations(native: Any, session: Session) -> None:
    """Whichever allocation of a request is refused: an answer or a closed connection, and the next
    request is served."""
    lib = native.lib
    with running(native, session) as server:
        asks: list[Callable[[], tuple[int, Any]]] = [
            lambda: server.chat(max_tokens=2),
            lambda: server.chat(max_tokens=2, stream=True),
            lambda: server.ask("POST", "/tokenize", {"content": "hello", "with_pieces": True}),
            lambda: server.ask("GET", "/api/info"),
            lambda: server.ask("GET", "/"),
        ]
        for ask in asks:
            assert ask()[0] == 200
            before = lib.lp_alloc_count()
            assert ask()[0] == 200
            total = lib.lp_alloc_count() - before
            assert total > 0
            statuses = set()
            for n in range(total + 1):
                lib.lp_alloc_fail_at(n)
                try:
                    statuses.add(ask()[0])
                except (http.client.HTTPException, OSError):
                    statuses.add(0)
                finally:
                    lib.lp_alloc_fail_at(-1)
            assert statuses <= {0, 200, 500, 503}, statuses
            assert statuses != {200}
            assert ask()[0] == 200
