"""The system prompt evaluated at build time: its keys and values travel in the container.

Every chat of an executable built with --system begins with the same tokens. The builder renders
the model's own template around the system text, evaluates the tokens that all such prompts share,
and stores what the cache then holds (`system.kv`; its layout: runtime_c/engine/kv_file.h). At run
time it is used up to the longest common token prefix of whatever prompt comes.

What was computed is a function of the weights, the tokens and a named path: ISA level, activation
mode and cache type, all recorded. The modes are those that the executable itself will run in. The
level is avx2 on x86-64 and neon on ARM64 hosts although better ones may be there, so that the
bytes do not depend on the machine of the build; only a host without avx2 takes its best and says
so. An executable on another path uses the cache all the same; its answers may then differ from
freshly evaluated ones as much as the paths do (levels with fused multiply-add give the same bits).

A template that prints a date would end the common prefix there. Unless --live-date is given, the
build's date (UTC, whole days; $SOURCE_DATE_EPOCH if set) is recorded, and the executable's prompts
print it. A template that prints none gets none, so such builds do not depend on the day.

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamapack.errors import LlamapackError
from llamapack.native import Native, load
from llamapack.payload import number, text
from llamapack.sources import Model
from llamapack.toolchain import Progress, find_tree

if TYPE_CHECKING:
    from llamapack.plan import Plan

__all__ = [
    "Prepared",
    "build_date",
    "kept_prefix",
    "most_bytes",
    "prepare",
    "system_text",
    "wanted",
]

_DAY = 86400
_ROOM = 16384  # for the entry's header, its alignment and its rows
_STEP = 128  # tokens between two looks at Ctrl-C
_LEVELS = ("avx2", "neon")
_HINT = "(needed to evaluate the system prompt; --no-embed-kv builds without that)"
# Of different kinds from the first character on, so that what they share ends where they begin.
_USERS = ("Hello", "1 + 1 = ?")
# Differ in year, month, day, weekday and time of day.
_DATES = (978_343_200, 1_795_606_530)
# Default arguments that decide what is computed, beside --system.
_DECIDE = ("--act", "--kv-type", "--no-thinking", "--no-embedded-kv", "--live-date")
_VERSION = re.compile(r"LP_KV_VERSION = (\d+)")


@dataclass(frozen=True, slots=True)
class Prepared:
    """An evaluated prefix: a file as kv_file.h describes it, not yet bound to weights."""

    data: bytes
    tokens: int
    cpu: str  # the ISA level
    act: str
    kv_type: str
    date: int | None  # what prompts must print for the prefix to match; seconds since 1970
    warnings: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of it: how much there is, and how it was computed."""
        return {
            "tokens": self.tokens,
            "cpu": self.cpu,
            "act": self.act,
            "kv_type": self.kv_type,
        }

    def sealed(self, model_sha256: bytes, model_size: int) -> bytes:
        """The same, bound to the weights of this hash (the root over their chunks) and size."""
        if self.data[32:72] == model_sha256 + model_size.to_bytes(8, "little"):
            return self.data  # kept from an earlier build
        native = load()
        data = bytearray(self.data)
        view = native.ffi.from_buffer(data)
        native.lib.lp_kv_file_seal(view, len(data), model_sha256, model_size)
        return bytes(data)


def build_date() -> int:
    """Midnight UTC of the build's day, in seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not (given.isascii() and given.isdigit() and len(given) <= 11):
        raise LlamapackError("SOURCE_DATE_EPOCH is not a number of seconds since 1970")
    now = int(given) if given else int(time.time())
    return now - now % _DAY


def system_text(system: str, args: Sequence[str]) -> str:
    """The system prompt that the executable will have: a baked-in --system counts before."""
    return _Defaults(args).values.get("--system") or system


def wanted(plan: "Plan") -> bool:
    """Whether a plan's outputs are to carry an evaluated system prompt."""
    return plan.model is not None and plan.embed_kv and bool(system_text(plan.system, plan.args))


def kept_prefix(plan: "Plan") -> Prepared | None:
    """What an earlier build evaluated, if the same would be computed now; LlamapackError if it is
    damaged."""
    kept, model = plan.kept, plan.model
    kv = kept.system_kv
    if kv is None or model is None or plan.quantized or plan.live_date:
        return None
    if _decisions(kept.system, kept.args) != _decisions(plan.system, plan.args):
        return None
    try:
        with kv.path.open("rb") as file:
            file.seek(kv.offset)
            data = file.read(kv.size)
    except OSError as error:
        raise LlamapackError(f"cannot read {kv.path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != kv.sha256:
        raise LlamapackError(f"{kv.path}: damaged: system.kv differs from its hash")
    version = _VERSION.search((find_tree().root / "runtime_c/engine/kv_file.h").read_text("utf-8"))
    current = int(version[1] if version else 0).to_bytes(4, "little")
    bound = bytes.fromhex(kept.weights_sha256) + model.size.to_bytes(8, "little")
    if data[:8] != b"LPKVDATA" or data[12:16] != current or data[32:72] != bound:
        return None
    cpu, act, kv_type = (text(kv.row, key) for key in ("cpu", "act", "kv_type"))
    return Prepared(data, number(kv.row, "tokens"), cpu, act, kv_type, kept.date, ())


def _decisions(system: str, args: Sequence[str]) -> tuple[str | None, ...]:
    values = _Defaults(args).values
    return (system_text(system, args), *map(values.get, _DECIDE))


def most_bytes(plan: "Plan") -> int:
    """How much an evaluated system prompt adds to an executable, at most; nothing is evaluated."""
    if (kept := kept_prefix(plan)) is not None:
        return len(kept.data) + _ROOM
    assert plan.model is not None
    defaults = _Defaults(plan.args)
    with _Runtime(plan.model, str(plan.model.path)) as runtime:
        found = _shared_tokens(runtime, plan.system, plan.args, live_date=plan.live_date)
        return 0 if isinstance(found, str) else runtime.bytes_of(len(found[0]), defaults) + _ROOM


def prepare(
    model: Model,
    system: str,
    args: Sequence[str] = (),
    *,
    live_date: bool = False,
    called: str = "",
    progress: Progress | None = None,
) -> Prepared | str:
    """Evaluates the system prompt; a text instead says why nothing can be prepared. called: the
    model's name in messages, if not its path."""
    defaults = _Defaults(args)
    if "--no-embedded-kv" in defaults.values:
        return "the system prompt was not prepared: --arg says --no-embedded-kv"
    if progress:
        progress("making the runtime of this machine", 0, 1)
    try:
        load()
    except LlamapackError as error:
        raise LlamapackError(f"{error} {_HINT}", details=error.details) from None
    with _Runtime(model, called or str(model.path)) as runtime:
        found = _shared_tokens(runtime, system, args, live_date=live_date)
        return found if isinstance(found, str) else runtime.evaluate(*found, defaults, progress)


def _shared_tokens(
    runtime: "_Runtime", system: str, args: Sequence[str], *, live_date: bool
) -> tuple[list[int], int | None] | str:
    """The tokens that all chats begin with, and the date in them, if one is fixed; a text instead
    says why there are none."""
    defaults = _Defaults(args)
    system = system_text(system, args)
    try:
        variants = [
            runtime.prompt(system, user, date, defaults.thinking)
            for date in _DATES
            for user in _USERS
        ]
    except _TemplateError as error:
        return f"the system prompt was not prepared: {error}"
    date = None
    if variants[: len(_USERS)] != variants[len(_USERS) :] and not (
        live_date or "--live-date" in defaults.values
    ):
        date = build_date()
        variants = [runtime.prompt(system, user, date, defaults.thinking) for user in _USERS]
    tokens = _common(variants)
    if not tokens:
        return "the system prompt was not prepared: prompts with it share no first token"
    return tokens, date


def _common(lists: list[list[int]]) -> list[int]:
    shortest = min(lists, key=len)
    for i, token in enumerate(shortest):
        if any(other[i] != token for other in lists):
            return shortest[:i]
    return shortest


class _Defaults:
    """Baked-in options that change what is computed; the last of several counts."""

    def __init__(self, args: Sequence[str]) -> None:
        self.values: dict[str, str] = {}
        for flag, _, value in (arg.partition(" ") for arg in args):
            self.values[flag] = value
        self.thinking = 0 if "--no-thinking" in self.values else -1


class _TemplateError(Exception):
    """A prompt that the model's template does not give."""


class _Runtime:
    """The model opened by the runtime itself, as a library of this machine."""

    def __init__(self, model: Model, called: str) -> None:
        self._model = model
        self._called = called
        self._native: Native = load()
        self._ffi, self._lib = self._native.ffi, self._native.lib
        self._error = self._ffi.new("lp_error *")
        self._closing: list[Callable[[], None]] = []
        self._keep: list[Any] = []  # what C borrows

    def __enter__(self) -> "_Runtime":
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._closing:
            self._closing.pop()()

    def _open(self) -> None:
        ffi, lib, model = self._ffi, self._lib, self._model
        mapping = ffi.new("lp_map *")
        self._check(lib.lp_map_open(mapping, os.fsencode(model.path), self._error))
        self._closing.append(lambda: lib.lp_map_close(mapping))
        if mapping.size < model.offset + model.size:
            raise LlamapackError(f"{self._called} changed while it was read; build again")
        data = mapping.data + model.offset
        self._gguf = self._made("lp_gguf", lib.lp_gguf_open, lib.lp_gguf_close, data, model.size)
        self._vocab = self._made("lp_vocab", lib.lp_vocab_open, lib.lp_vocab_close, self._gguf)
        self._weights = self._made("lp_model", lib.lp_model_open, lib.lp_model_close, self._gguf)
        self._template = self._made(
            "lp_template",
            lib.lp_template_for_model,
            lib.lp_template_close,
            self._gguf,
            self._vocab,
        )

    def _made(self, kind: str, opens: Any, closes: Any, *arguments: Any) -> Any:
        out = self._ffi.new(f"{kind} **")
        self._check(opens(out, *arguments, self._error))
        self._closing.append(lambda: closes(out[0]))
        return out[0]

    def _check(self, code: int) -> None:
        if code != self._lib.LP_OK:
            raise LlamapackError(f"{self._called}: {self._line()}")

    def _line(self) -> str:
        return str(self._ffi.string(self._error.text).decode(errors="replace"))

    def _str(self, text: str) -> Any:
        raw = text.encode()
        data = self._ffi.new("char[]", raw)
        self._keep.append(data)
        return {"data": data, "len": len(raw)}

    def prompt(self, system: str, user: str, date: int, thinking: int) -> list[int]:
        """The ids of a chat's first prompt, as the executable makes them."""
        ffi, lib = self._ffi, self._lib
        messages = ffi.new(
            "lp_message[]",
            [
                {"role": self._str("system"), "content": self._str(system)},
                {"role": self._str("user"), "content": self._str(user)},
            ],
        )
        params = ffi.new(
            "lp_render_params *",
            {
                "messages": messages,
                "n_messages": 2,
                "add_generation_prompt": True,
                "enable_thinking": thinking,
                "now": date,
            },
        )
        ids = ffi.new("lp_ids *")
        code = lib.lp_chat_prompt_ids(self._template, self._vocab, params, ids, self._error)
        out = [ids.data[i] for i in range(ids.len)]
        lib.lp_ids_free(ids)
        if code != lib.LP_OK:
            raise _TemplateError(self._line())
        return out

    def evaluate(
        self, tokens: list[int], date: int | None, defaults: _Defaults, progress: Progress | None
    ) -> Prepared:
        ffi, lib = self._ffi, self._lib
        trained = int(lib.lp_model_describe(self._weights).n_ctx_train)
        if len(tokens) >= trained:
            raise LlamapackError(
                f"--system: {len(tokens)} tokens; the model's context holds {trained}"
            )
        level, warnings = self._level()
        act, kv_type = self._modes(defaults)
        cpu = ffi.new("char[]", level.encode())
        params = ffi.new(
            "lp_engine_params *",
            {
                "n_ctx": len(tokens),
                "n_seq": 1,
                "n_batch": _STEP,
                "n_threads": lib.lp_cpu_count(),
                "act": act,
                "kv_type": kv_type,
                "cpu": cpu,
            },
        )
        try:
            engine = self._made(
                "lp_engine", lib.lp_engine_open, lib.lp_engine_close, self._weights, params
            )
        except LlamapackError as error:  # not enough memory
            raise LlamapackError(f"{error} {_HINT}") from None
        for begin in range(0, len(tokens), _STEP):
            part = tokens[begin : begin + _STEP]
            rows = ffi.new("lp_batch_row[]", [(t, begin + i, 0, False) for i, t in enumerate(part)])
            self._check(lib.lp_engine_step(engine, rows, len(part), self._error))
            if progress:
                progress("evaluating the system prompt", begin + len(part), len(tokens))
        return Prepared(
            self._written(engine, tokens),
            len(tokens),
            level,
            ffi.string(lib.lp_act_name(act)).decode(),
            ffi.string(lib.lp_kv_type_name(kv_type)).decode(),
            date,
            warnings,
        )

    def _modes(self, defaults: _Defaults) -> tuple[int, int]:
        """Activation mode and cache type that the executable will run in."""
        ffi, lib = self._ffi, self._lib
        act, kv_type = ffi.new("lp_act_mode *"), ffi.new("lp_kv_type *")
        asked = (defaults.values.get("--act"), defaults.values.get("--kv-type"))
        names = [ffi.new("char[]", name.encode()) if name else ffi.NULL for name in asked]
        self._check(lib.lp_engine_choose_modes(self._weights, *names, act, kv_type, self._error))
        return act[0], kv_type[0]

    def bytes_of(self, tokens: int, defaults: _Defaults) -> int:
        """What `evaluate` makes of so many tokens, at most: kv_file.h."""
        info = self._lib.lp_model_describe(self._weights)
        _, kv_type = self._modes(defaults)
        name = self._ffi.string(self._lib.lp_kv_type_name(kv_type))
        per_token = info.kv_bytes_per_token * (2 if name == b"f32" else 1)  # told for F16
        return int(tokens * (per_token + 4) + 16 * info.n_layer + 256)

    def _level(self) -> tuple[str, tuple[str, ...]]:
        ffi, lib = self._ffi, self._lib
        levels = [lib.lp_kernels_at(i) for i in range(lib.lp_kernels_count())]
        names = [ffi.string(k.name).decode() for k in levels if lib.lp_kernels_runs_here(k)]
        for name in _LEVELS:
            if name in names:
                return name, ()
        return names[0], (
            f"the system prompt was prepared with --cpu {names[0]}, the best of this machine: "
            f"other machines do not build the same bytes",
        )

    def _written(self, engine: Any, tokens: list[int]) -> bytes:
        ffi, lib = self._ffi, self._lib
        out = ffi.new("lp_buf *")
        try:
            ids = ffi.new("int32_t[]", tokens)
            self._check(lib.lp_kv_file_write(out, engine, 0, ids, len(tokens), self._error))
            return bytes(ffi.buffer(out.data, out.len))
        finally:
            lib.lp_buf_free(out)
