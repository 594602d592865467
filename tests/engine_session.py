"""A model opened through the C API, for tests: GGUF, model, vocabulary, engine, scheduler.

    with Session(native, path, n_ctx=128, n_logit_rows=16) as s:
        logits = s.step([1, 2, 3])           # rows that want logits, (3, vocab)

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

OK = 0
ARGUMENT, FORMAT, UNSUPPORTED, LIMIT, MEMORY, IO, FULL, STOPPED = range(1, 9)
INT8, F32, INT16 = 0, 1, 2
KV_F16, KV_F32, KV_Q8_0 = 0, 1, 2

Logits = npt.NDArray[np.float32]


class Refused(Exception):
    """A C call that returned something else than LP_OK."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code, self.text = code, text


class Session:
    def __init__(
        self,
        native: Any,
        model: Path | bytes,
        *,
        n_ctx: int = 512,
        n_seq: int = 1,
        n_batch: int = 0,
        n_logit_rows: int = 0,
        threads: int = 1,
        act: int = INT8,
        kv: int | None = None,
        cpu: str | None = None,
        draft: int = 0,
        draft_always: bool = True,
    ) -> None:
        self.ffi, self.lib = native.ffi, native.lib
        self.err = self.ffi.new("lp_error *")
        # The fields are set as things open, so that close() after a failure frees those that did.
        self.gguf: Any = None
        self.model: Any = None
        self.engine: Any = None
        self.vocab: Any = None
        self.scheduler: Any = None
        self.map: Any = None
        self.draft = {"most": draft, "always": draft_always}
        try:
            self._open_model(model)
            kv = int(self.lib.lp_engine_kv_type_for(act)) if kv is None else kv
            self._cpu = self.ffi.new("char[]", cpu.encode()) if cpu else self.ffi.NULL
            params = {
                "n_ctx": n_ctx,
                "n_seq": n_seq,
                "n_batch": n_batch,
                "n_logit_rows": n_logit_rows or n_seq + draft,
                "n_threads": threads,
                "act": act,
                "kv_type": kv,
                "cpu": self._cpu,
            }
            self.engine = self._make(
                "lp_engine",
                self.lib.lp_engine_open,
                self.model,
                self.ffi.new("lp_engine_params *", params),
            )
        except Refused:
            self.close()
            raise
        self.n_vocab = int(self.lib.lp_model_describe(self.model).n_vocab)

    def _open_model(self, model: Path | bytes) -> None:
        if isinstance(model, bytes):
            # One allocation of exactly this size, on the 64-byte border that a mapping has.
            self.block = self.ffi.new("uint8_t[]", len(model) + 64)
            skip = -int(self.ffi.cast("uintptr_t", self.block)) % 64
            data, size = self.block + skip, len(model)
            self.ffi.memmove(data, model, size)
        else:
            self.map = self.ffi.new("lp_map *")
            self.check(self.lib.lp_map_open(self.map, str(model).encode(), self.err))
            data, size = self.map.data, self.map.size
        self.gguf = self._make("lp_gguf", self.lib.lp_gguf_open, data, size)
        self.model = self._make("lp_model", self.lib.lp_model_open, self.gguf)

    def check(self, code: int) -> None:
        if code != OK:
            raise Refused(code, self.ffi.string(self.err.text).decode())

    def _make(self, kind: str, call: Any, *arguments: Any) -> Any:
        out = self.ffi.new(f"{kind} **")
        self.check(call(out, *arguments, self.err))
        return out[0]

    # --- engine ----------------------------------------------------------------------------

    def rows(self, rows: Sequence[tuple[int, int, int, bool]]) -> Logits:
        """One step over (token, position, sequence, wants_logits)."""
        data = self.ffi.new("lp_batch_row[]", [tuple(row) for row in rows])
        self.check(self.lib.lp_engine_step(self.engine, data, len(rows), self.err))
        n = sum(bool(row[3]) for row in rows)
        return (
            np.stack([self.logits(i) for i in range(n)])
            if n
            else np.empty((0, self.n_vocab), np.float32)
        )

    def logits(self, i: int) -> Logits:
        pointer = self.lib.lp_engine_logits(self.engine, i)
        return np.frombuffer(self.ffi.buffer(pointer, 4 * self.n_vocab), np.float32).copy()

    def step(self, tokens: Sequence[int], sequence: int = 0, *, want: bool = True) -> Logits:
        start = self.length(sequence)
        return self.rows([(int(t), start + i, sequence, want) for i, t in enumerate(tokens)])

    def length(self, sequence: int = 0) -> int:
        return int(self.lib.lp_engine_length(self.engine, sequence))

    def truncate(self, n_keep: int, sequence: int = 0) -> None:
        self.lib.lp_engine_truncate(self.engine, sequence, n_keep)

    # --- vocabulary and scheduler ----------------------------------------------------------

    def open_vocab(self) -> Any:
        if self.vocab is None:
            self.vocab = self._make("lp_vocab", self.lib.lp_vocab_open, self.gguf)
        return self.vocab

    def open_scheduler(self) -> Any:
        if self.scheduler is None:
            self.scheduler = self._make(
                "lp_scheduler",
                self.lib.lp_scheduler_open,
                self.engine,
                self.open_vocab(),
                self.ffi.new("lp_draft_params *", self.draft),
            )
        return self.scheduler

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        raw = text.encode()
        keep = self.ffi.new("char[]", raw)
        ids = self.ffi.new("lp_ids *")
        value = self.ffi.new("lp_str *", {"data": keep, "len": len(raw)})[0]
        self.check(
            self.lib.lp_tokenize(
                self.open_vocab(), value, self.ffi.NULL, 0, add_special, ids, self.err
            )
        )
        out = [ids.data[i] for i in range(ids.len)]
        self.lib.lp_ids_free(ids)
        return out

    # --- closing ---------------------------------------------------------------------------

    def close(self) -> None:
        for handle, free in (
            (self.scheduler, self.lib.lp_scheduler_close),
            (self.vocab, self.lib.lp_vocab_close),
            (self.engine, self.lib.lp_engine_close),
            (self.model, self.lib.lp_model_close),
            (self.gguf, self.lib.lp_gguf_close),
            (self.map, self.lib.lp_map_close),
        ):
            if handle is not None:
                free(handle)
        self.gguf = self.model = self.engine = self.vocab = self.scheduler = self.map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def levels(native: Any) -> list[str]:
    """The ISA levels of this build that run here."""
    ffi, lib = native.ffi, native.lib
    all_levels = (lib.lp_kernels_at(i) for i in range(lib.lp_kernels_count()))
    return [ffi.string(k.name).decode() for k in all_levels if lib.lp_kernels_runs_here(k)]
