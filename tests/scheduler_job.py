"""A job of the scheduler as tests submit and watch it; what greedy steps alone would say.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine_session import Session

NONE, END, STOP_TEXT, LENGTH, CONTEXT, CANCELLED, ERROR = range(7)


@dataclass
class Job:
    """A submitted job and what its callbacks heard."""

    session: Session
    prompt: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    on_text: Any = None  # (job) -> bool
    pieces: list[bytes] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)
    ends: list[tuple[int, str | None]] = field(default_factory=list)
    handle: Any = None

    def submit(self) -> Job:
        ffi, lib = self.session.ffi, self.session.lib
        sampling = ffi.new("lp_sampling *")
        lib.lp_sampling_default(sampling)
        sampling.temp = 0.0
        params = ffi.new("lp_job_params *")
        ids = ffi.new("int32_t[]", self.prompt)
        stops = [s if isinstance(s, bytes) else s.encode() for s in self.options.pop("stops", [])]
        raw = [ffi.new("char[]", s) for s in stops]
        texts = ffi.new(
            "lp_str[]", [{"data": r, "len": len(s)} for r, s in zip(raw, stops, strict=True)]
        )
        params.prompt, params.n_prompt = ids, len(self.prompt)
        params.stops, params.n_stops = texts, len(stops)
        for name, value in self.options.items():
            setattr(sampling if hasattr(sampling, name) else params, name, value)
        params.sampling = sampling[0]
        self.callbacks = (
            ffi.callback("bool(void *, lp_job *, lp_str)", self._text),
            ffi.callback("void(void *, lp_job *, size_t, size_t)", self._progress),
            ffi.callback("void(void *, lp_job *, lp_finish, const lp_error *)", self._finish),
        )
        params.on_text, params.on_progress, params.on_finish = self.callbacks
        out = ffi.new("lp_job **")
        scheduler = self.session.open_scheduler()
        self.session.check(lib.lp_scheduler_submit(scheduler, params, out, self.session.err))
        self.handle = out[0]
        return self

    def _text(self, _user: Any, _job: Any, text: Any) -> bool:
        assert text.len > 0
        self.pieces.append(bytes(self.session.ffi.buffer(text.data, text.len)))
        return True if self.on_text is None else bool(self.on_text(self))

    def _progress(self, _user: Any, _job: Any, done: int, total: int) -> None:
        self.progress.append((done, total))

    def _finish(self, _user: Any, _job: Any, finish: int, error: Any) -> None:
        ffi = self.session.ffi
        text = None if error == ffi.NULL else ffi.string(error.text).decode()
        self.ends.append((finish, text))

    @property
    def text(self) -> str:
        for piece in self.pieces:
            piece.decode()  # every piece is whole characters
        return b"".join(self.pieces).decode()

    @property
    def answer(self) -> list[int]:
        n = self.session.ffi.new("size_t *")
        data = self.session.lib.lp_job_answer(self.handle, n)
        return [data[i] for i in range(n[0])]

    @property
    def stats(self) -> Any:
        return self.session.lib.lp_job_stats_of(self.handle)

    @property
    def finish(self) -> int:
        return int(self.session.lib.lp_job_finish(self.handle))

    def cancel(self) -> None:
        self.session.lib.lp_job_cancel(self.handle)

    def release(self) -> None:
        self.session.lib.lp_job_release(self.handle)


def step(s: Session) -> bool:
    busy = s.ffi.new("bool *")
    s.check(s.lib.lp_scheduler_step(s.open_scheduler(), busy, s.err))
    return bool(busy[0])


def run(s: Session, limit: int = 5000) -> None:
    for _ in range(limit):
        if not step(s):
            return
    pytest.fail("the jobs do not end")


def piece(s: Session, token: int) -> bytes:
    buf = s.ffi.new("lp_buf *")
    s.lib.lp_buf_init(buf, 0)
    s.lib.lp_vocab_add_piece(s.open_vocab(), token, False, buf)
    out = bytes(s.ffi.buffer(buf.data, buf.len)) if buf.len else b""
    s.lib.lp_buf_free(buf)
    return out


def greedy(native: Any, path: Path, prompt: list[int], n: int) -> list[int]:
    """n greedy tokens (ends too), by the engine alone."""
    with Session(native, path, n_ctx=512) as s:
        if prompt[:-1]:
            s.step(prompt[:-1], want=False)
        out, token = [], prompt[-1]
        for _ in range(n):
            token = int(s.step([token])[0].argmax())
            out.append(token)
        return out


def words(s: Session, tokens: list[int]) -> bytes:
    return b"".join(piece(s, t) for t in tokens)
