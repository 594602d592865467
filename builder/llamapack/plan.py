"""Every choice of a build checked before any work is done.

`make_plan` turns what the user typed into a Plan or raises with one line. After it only the
compiler and the disk can still fail.

SPDX-License-Identifier: Apache-2.0
"""

import os
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamapack.container import Source, Weights
from llamapack.errors import LlamapackError, UsageError
from llamapack.formats import FORMATS
from llamapack.mixes import find_mix
from llamapack.quantize import Quantized, quantized
from llamapack.sources import Model, find_model
from llamapack.targets import Target, find_target, host_target
from llamapack.toolchain import find_tree

__all__ = ["Output", "Plan", "check_room", "make_plan"]

RUNTIME_ROOM = 8 << 20  # above any runtime with its page and licences
_MAX_NAME = 200
_MAX_SYSTEM = 64 << 10
_TOKENIZERS = ("gpt2", "llama")  # runtime_c/model/vocab.c
_OPTION_ROW = re.compile(
    r'(\w+)_ROW\(\s*(NULL|"(-\w)")\s*,\s*"(--[\w-]+)"\s*,[^,]*,\s*[\w]+\s*,?'
    r"(?:\s*(-?[\d.e]+)\s*,\s*(-?[\d.e]+)\s*,)?"
)
# As lp_parse_i64 and lp_parse_f64 read them.
_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"(-?(0|[1-9][0-9]*)(\.[0-9]+)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_ARCH_ROW = re.compile(r'\.name\s*=\s*"([a-z0-9_-]+)"')


@dataclass(frozen=True, slots=True)
class Output:
    target: Target
    path: Path


@dataclass(slots=True)
class Plan:
    model: Model | None  # None with --no-model
    outputs: list[Output]
    name: str = ""
    system: str = ""
    args: list[str] = field(default_factory=list)
    licenses: list[Path] = field(default_factory=list)
    embed_kv: bool = True  # evaluate the system prompt now, if there is one
    live_date: bool = False
    quantized: Quantized | None = None

    @property
    def weights(self) -> Source | None:
        if self.quantized is not None or self.model is None:
            return self.quantized
        return Weights(self.model.path, self.model.offset, self.model.size)


def make_plan(
    model: str | None,
    out: Path,
    targets: Sequence[str] = (),
    *,
    name: str = "",
    system: str | None = None,
    args: Sequence[str] = (),
    embed_kv: bool = True,
    live_date: bool = False,
    license_file: Path | None = None,
    quant: str = "",
    no_model: bool = False,
) -> Plan:
    """Checks everything; model may be None with no_model only. Without a system prompt (None, not
    "") a packed executable's own is kept."""
    if no_model and model is not None:
        raise UsageError("--no-model packs no weights, so it takes no MODEL")
    if not no_model and model is None:
        raise UsageError("MODEL is missing (a .gguf, a packed executable or a model's name)")
    if quant:
        find_mix(quant)
        if no_model:
            raise UsageError("--no-model packs no weights, so there is nothing to --quant")
    _check_text("--name", name, _MAX_NAME, lines=False)
    _check_text("--system", system or "", _MAX_SYSTEM, lines=True)
    checked = _checked_args(args)
    outputs = plan_outputs(out, targets)
    for output in outputs:
        _check_output(output.path)
    found = find_model(model) if model is not None else None
    licenses = list(found.licenses) if found else []
    if license_file is not None:
        if not license_file.is_file():
            raise LlamapackError(f"--license-file: no such file: {license_file}")
        licenses.insert(0, license_file)
    if found is not None:
        _check_model(found)
    made = quantized(found, quant) if found and quant else None
    if system is None:
        system = found.system if found else ""
        _check_text(f"{model}: its system prompt", system, _MAX_SYSTEM, lines=True)
    plan = Plan(
        found, outputs, name, system, checked, licenses, embed_kv, live_date, quantized=made
    )
    if found is not None:
        _check_against_input(found, outputs)
    check_room(plan.weights.size if plan.weights else 0, outputs)
    return plan


def plan_outputs(out: Path, targets: Sequence[str]) -> list[Output]:
    """One target: OUT (with .exe for Windows); several: OUT-<target>[.exe]."""
    rows = [find_target(name) for name in dict.fromkeys(targets)] or [host_target()]
    if not out.name or out.name == "..":
        raise UsageError(f"-o {out} names no file")
    if len(rows) == 1:
        return [Output(rows[0], _resolve(with_suffix(out, rows[0].suffix)))]
    return [
        Output(row, _resolve(out.with_name(f"{out.name}-{row.name}{row.suffix}"))) for row in rows
    ]


def with_suffix(out: Path, suffix: str) -> Path:
    return out if out.name.lower().endswith(suffix) else out.with_name(out.name + suffix)


def _resolve(path: Path) -> Path:
    """Through a link to the file meant, so that the link itself is not replaced."""
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError, ValueError):
        raise LlamapackError(f"cannot write {path}: not a usable path") from None


def _check_text(option: str, text: str, limit: int, *, lines: bool) -> None:
    allowed = "\n\t" if lines else ""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{option}: not valid UTF-8") from None
    if size > limit:
        raise UsageError(f"{option}: {size} bytes; at most {limit} are possible")
    if any((ord(c) < 32 and c not in allowed) or ord(c) == 127 for c in text):
        raise UsageError(f"{option}: holds a control character")


def _checked_args(args: Sequence[str]) -> list[str]:
    """Each is an option the runtime knows: a wrong one would fail on everybody's machine. Numbers
    without the blanks around them, which the runtime would not read."""
    known = runtime_options()
    checked: list[str] = []
    for arg in args:
        _check_text("--arg", arg, _MAX_SYSTEM, lines=True)
        flag, _, value = arg.partition(" ")
        if known and flag not in known:
            raise UsageError(f"--arg {arg!r}: the runtime has no option {flag!r}")
        if known:
            _check_value(arg, flag, value.strip(), known[flag])
            if all(row.kind in ("INT", "REAL") for row in known[flag]):
                arg = f"{flag} {value.strip()}"
        checked.append(arg)
    return checked


def _check_value(arg: str, flag: str, value: str, rows: "list[_Option]") -> None:
    takes_value = any(row.kind != "FLAG" for row in rows)
    if takes_value != bool(value):
        needs = "needs a value" if takes_value else "takes no value"
        raise UsageError(f"--arg {arg!r}: {flag} {needs}")
    if not any(row.accepts(value) for row in rows):
        row = rows[0]
        whole = "whole " if row.kind == "INT" else ""
        raise UsageError(
            f"--arg {arg!r}: {flag} takes a {whole}number from {row.low:.15g} to {row.high:.15g}"
        )


@dataclass(frozen=True, slots=True)
class _Option:
    """A row of the runtime's table of options."""

    kind: str  # FLAG, TEXT, LIST, INT or REAL
    low: float = 0
    high: float = 0

    def accepts(self, value: str) -> bool:
        if self.kind not in ("INT", "REAL"):
            return True
        digits = _WHOLE if self.kind == "INT" else _NUMBER
        return bool(digits.fullmatch(value)) and self.low <= float(value) <= self.high


def runtime_options() -> dict[str, list[_Option]]:
    """The rows of the runtime's table (runtime_c/cli/options.c) by name, short and long; a name
    that means one thing to one command and another to the next has several."""
    source = find_tree().root / "runtime_c" / "cli" / "options.c"
    options: dict[str, list[_Option]] = {}
    if source.is_file():
        for match in _OPTION_ROW.finditer(source.read_text(encoding="utf-8")):
            bounds = (float(match[5]), float(match[6])) if match[5] else ()
            assert bounds or match[1] not in ("INT", "REAL"), f"{match[4]}: bounds are no numbers"
            for name in filter(None, (match[3], match[4])):
                options.setdefault(name, []).append(_Option(match[1], *bounds))
    return options


def runtime_architectures() -> list[str]:
    """The families in the runtime's table (runtime_c/model/arch.c)."""
    source = find_tree().root / "runtime_c" / "model" / "arch.c"
    return _ARCH_ROW.findall(source.read_text(encoding="utf-8")) if source.is_file() else []


def _check_output(path: Path) -> None:
    parent = path.parent
    try:
        if path.is_dir():
            raise LlamapackError(f"{path} is a directory; name a file with -o")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise LlamapackError(f"{path} is not a regular file and will not be replaced")
        if not parent.exists():
            raise LlamapackError(f"no such directory: {parent}")
        if not parent.is_dir():
            raise LlamapackError(f"cannot write {path}: {parent} is not a directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise LlamapackError(f"cannot write into {parent}: permission denied")
    except OSError as error:
        raise LlamapackError(f"cannot write {path}: {error.strerror}") from None
    except ValueError:
        raise LlamapackError(f"cannot write {str(path)!r}: not a usable path") from None


def _check_model(model: Model) -> None:
    gguf = model.gguf
    known = runtime_architectures()
    shown = "".join(c if c.isprintable() else "?" for c in gguf.architecture[:60])
    if not gguf.architecture:
        raise LlamapackError(f"{model.path}: no general.architecture: not a language model")
    if known and gguf.architecture not in known:
        raise LlamapackError(
            f"{model.path}: the architecture '{shown}' is not supported "
            f"(these are: {', '.join(known)})"
        )
    if isinstance(parts := gguf.number("split.count"), int) and parts > 1:
        raise LlamapackError(
            f"{model.path}: one of {parts} parts of a split model; join them first "
            "(llama-gguf-split --merge)"
        )
    experts = gguf.number(f"{gguf.architecture}.expert_count")
    if experts:
        raise LlamapackError(
            f"{model.path}: a mixture of {experts} experts, which is not supported yet"
        )
    tokenizer = gguf.text("tokenizer.ggml.model")
    if tokenizer and tokenizer not in _TOKENIZERS:
        raise LlamapackError(
            f"{model.path}: the tokenizer '{tokenizer[:60]}' is not supported "
            f"(these are: {', '.join(_TOKENIZERS)})"
        )
    if not gguf.tensors:
        raise LlamapackError(f"{model.path}: holds a vocabulary but no weights")
    for tensor in gguf.tensors:
        if not tensor.type.computes:
            raise LlamapackError(
                f"{model.path}: tensor {tensor.name} has the type {tensor.type.name}, "
                "which is not supported"
            )


def _check_against_input(model: Model, outputs: list[Output]) -> None:
    for output in outputs:
        if output.path.exists() and os.path.samefile(output.path, model.path):
            raise LlamapackError(f"{output.path} is the model itself; name another file with -o")


def check_room(size: int, outputs: list[Output]) -> None:
    """Whether files with `size` bytes beside the runtime can exist and be written."""
    for output in outputs:
        limit = FORMATS[output.target.format].max_size
        if limit is not None and size + RUNTIME_ROOM > limit:
            raise LlamapackError(
                f"{output.target.name}: with this model the file would exceed 4 GiB, which "
                "Windows does not start; build with --no-model and pass the weights with -m"
            )
    _check_space(size, outputs)


def _check_space(size: int, outputs: list[Output]) -> None:
    needed: dict[Path, int] = {}
    for output in outputs:
        folder = output.path.parent
        needed[folder] = needed.get(folder, 0) + size + RUNTIME_ROOM
    for folder, total in needed.items():
        usage = shutil.disk_usage(folder)
        # A total of 0 is how a file system says that it does not know.
        if usage.total and usage.free < total:
            raise LlamapackError(
                f"not enough space in {folder}: {_mib(total)} needed, {_mib(usage.free)} free"
            )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
