"""The server as a Windows program, under wine: sockets, threads and the page work there, too.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_model
from llamapack import build, plan
from server_process import Server, chat_body


@pytest.fixture(scope="module")
def server(
    tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    wine = tool("wine")
    folder = tmp_path_factory.mktemp("windows")
    model = tiny_model.build("llama", "Q8_0", seed=1).save(folder / "tiny.gguf")
    program = build.build(plan.make_plan(str(model), folder / "chat", ["windows-x86_64"]))[0].path
    env = {**os.environ, "WINEDEBUG": "-all"}
    with Server(Path(program), "-c", "256", runner=(wine,), env=env) as running:
        yield running
        assert running.post("/api/quit", {}).status == 200
        assert running.process.wait(timeout=20) == 0


pytestmark = pytest.mark.wine


def test_reports(server: Server) -> None:
    assert server.get("/health").json()["status"] == "ok"
    assert server.get("/api/info").json()["context"] == 256
    assert b"<html" in server.get("/").body


def test_answers(server: Server) -> None:
    whole = server.chat("hello", max_tokens=12, ignore_eos=True)
    events = server.stream(
        "/v1/chat/completions", chat_body("hello", max_tokens=12, ignore_eos=True)
    )
    assert events[-1] == "[DONE]"
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    assert text == whole["choices"][0]["message"]["content"]


def test_refusals(server: Server) -> None:
    assert server.get("/api/info", {"Host": "evil.example"}).status == 421
    assert server.post("/api/presence", {}, {"Origin": "http://evil.example"}).status == 403
    replies = server.raw(b"GET / HTTP/1.1\nHost: x\r\n\r\n")
    assert [reply.status for reply in replies] == [400]
    assert replies[0].closed
