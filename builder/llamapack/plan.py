"""Every choice of a build checked before any work is done.

`make_plan` turns what the user typed into a Plan or raises with one line. After it only the
compiler and the disk can still fail.

SPDX-License-Identifier: Apache-2.0
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamapack.container import Source, Weights, weights_name
from llamapack.default_args import checked_args, merged_args
from llamapack.errors import LlamapackError, UsageError
from llamapack.formats import FORMATS
from llamapack.icons import IconFile, Image, images, pictures, read_icon, standard_pictures
from llamapack.kept import Kept, kept_of
from llamapack.launchers import desktop_files, is_application, payload_file
from llamapack.mixes import find_mix
from llamapack.payload import is_packed, open_payload
from llamapack.quantize import Quantized, quantized
from llamapack.signing import SignCommand, parse_sign_command
from llamapack.sizes import check_space, parse_size
from llamapack.sources import Model, find_model, read_head
from llamapack.targets import UNIVERSAL, Target, find_slices, find_target, host_target
from llamapack.toolchain import find_tree

__all__ = ["Output", "Plan", "make_plan", "repack_plan", "weights_path"]

RUNTIME_ROOM = 8 << 20  # above any runtime with its page and licences
_MAX_NAME = 200
_MAX_VERSION = 100
_MAX_SYSTEM = 64 << 10
_TOKENIZERS = ("gpt2", "llama")  # runtime_c/model/vocab.c
_ARCH_ROW = re.compile(r'\.name\s*=\s*"([a-z0-9_-]+)"')


@dataclass(frozen=True, slots=True)
class Output:
    target: Target
    path: Path
    app: bool = False  # path is an application of macOS, a directory
    slices: tuple[Target, ...] = ()  # of a universal file

    @property
    def runtimes(self) -> tuple[Target, ...]:
        """What must be compiled for it."""
        return self.slices or (self.target,)


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
    split: bool = False  # weights in a file of their own, whatever their size
    out: Path = Path()  # as the user named it
    pictures: dict[int, bytes] = field(default_factory=dict)  # --app, --desktop: PNG files by size
    desktop: bool = False
    max_size: int | None = None  # of every file; build() then chooses what to quantize to
    version: str = ""  # of the program; "" for llamapack's
    icon: list[Image] = field(default_factory=list)  # of Windows programs; empty: llamapack's
    icon_file: IconFile | None = None  # as it was given, for packing again
    sign: SignCommand | None = None
    unused: tuple[str, ...] = ()  # options that none of the outputs has a place for

    @property
    def title(self) -> str:
        """What systems show as the program's name."""
        own = self.model.gguf.text("general.name") if self.model else ""
        return self.name or own.strip() or "llamapack"

    @property
    def kept(self) -> Kept:
        """What an executable packed before had; nothing of another model."""
        return (self.model.kept if self.model else None) or Kept()

    @property
    def weights(self) -> Source | None:
        if self.quantized is not None or self.model is None:
            return self.quantized
        model = self.model
        return Weights(model.path, model.offset, model.size, self.kept.weights_sha256)


def make_plan(
    model: str | None,
    out: Path,
    targets: Sequence[str] = (),
    *,
    slices: str = "",
    name: str | None = None,
    system: str | None = None,
    args: Sequence[str] = (),
    embed_kv: bool | None = None,
    live_date: bool = False,
    license_file: Path | None = None,
    quant: str = "",
    max_size: str = "",
    split: bool = False,
    no_model: bool = False,
    app: bool = False,
    desktop: bool = False,
    icon: Path | str | None = None,
    version: str | None = None,
    sign_cmd: str | None = None,
) -> Plan:
    """Checks everything; model may be None with no_model only. What is not given (None, not "") is
    kept from a packed executable; of its args those that are given anew go."""
    if no_model and model is not None:
        raise UsageError("--no-model packs no weights, so it takes no MODEL")
    if not no_model and model is None:
        raise UsageError("MODEL is missing (a .gguf, a packed executable or a model's name)")
    if quant:
        find_mix(quant)
        if no_model:
            raise UsageError("--no-model packs no weights, so there is nothing to --quant")
    limit = parse_size(max_size) if max_size else None
    if quant and max_size:
        raise UsageError("--max-size chooses what to quantize to; give it or --quant, not both")
    for option, given in (("--max-size", max_size), ("--split", split)):
        if given and no_model:
            raise UsageError(f"--no-model packs no weights, so there is nothing to {option}")
    _check_text("--name", name or "", _MAX_NAME, lines=False)
    _check_text("--system", system or "", _MAX_SYSTEM, lines=True)
    _check_text("--version-string", version or "", _MAX_VERSION, lines=False)
    sign = parse_sign_command(sign_cmd) if sign_cmd is not None else None
    for arg in args:
        _check_text("--arg", arg, _MAX_SYSTEM, lines=True)
    outputs = plan_outputs(out, targets, slices, app=app)
    if desktop and all(output.target.system != "linux" for output in outputs):
        raise UsageError("--desktop is for Linux: there is no such target")
    if app and split:
        raise UsageError("--app holds the weights in a file of its own already; drop --split")
    if sign is not None and any(output.app for output in outputs):
        raise UsageError("--sign-cmd signs files; sign an application (--app) after the build")
    arches = [target.arch for output in outputs for target in output.runtimes]
    checked = checked_args([arg for arg in args if arg], arches)
    for output in outputs:
        _check_output(output.path, output.app)
    found = find_model(model) if model is not None else None
    licenses = list(found.licenses) if found else []
    if license_file is not None:
        if not license_file.is_file():
            raise LlamapackError(f"--license-file: no such file: {license_file}")
        licenses.insert(0, license_file)
    if found is not None:
        _check_model(found)
    plan = Plan(found, outputs, out=out, split=split, max_size=limit, licenses=licenses)
    plan.quantized = quantized(found, quant) if found and quant else None
    plan.desktop = desktop
    plan.sign = sign
    kept = plan.kept
    _choose_looks(plan, icon, version, app=app)
    plan.name = kept.name if name is None else name
    plan.system = kept.system if system is None else system
    plan.live_date = live_date
    plan.args = checked
    if kept.args:
        plan.args = checked_args(merged_args(kept.args, args), arches)
    # A sender who did not want it evaluated is asked again only where the prompt is another.
    same = kept.system_kv is None and bool(kept.system) and system is None
    plan.embed_kv = not same if embed_kv is None else embed_kv
    _check_text(f"{model}: its name", plan.name, _MAX_NAME, lines=False)
    _check_text(f"{model}: its version", plan.version, _MAX_VERSION, lines=False)
    _check_text(f"{model}: its system prompt", plan.system, _MAX_SYSTEM, lines=True)
    if found is not None:
        written = [output.path for output in outputs]
        written += [path for output in outputs for path in _desktop_files(plan, output)]
        _check_against_input(found, written)
    if limit is None:
        check_space(rough_sizes(plan))
    return plan


def _choose_looks(plan: Plan, icon: Path | str | None, version: str | None, *, app: bool) -> None:
    """Icon and version, as given or kept, and what the outputs' systems show of them. An icon that
    none of them shows is checked as well."""
    kept = plan.kept
    plan.version = kept.version if version is None else version
    plan.icon_file = kept.icon if icon is None else read_icon(Path(icon)) if icon else None
    windows = any(target.windows for output in plan.outputs for target in output.runtimes)
    desktops = app or plan.desktop
    if plan.icon_file and (windows or not desktops):
        shown = images(plan.icon_file)
        plan.icon = shown if windows else []
    for path in [path for output in plan.outputs for path in _desktop_files(plan, output)]:
        _check_output(path)
        if icon and path.exists() and os.path.samefile(path, icon):
            raise LlamapackError(f"--desktop writes {path}, which is the icon; keep that elsewhere")
    if desktops:
        plan.pictures = pictures(plan.icon_file) if plan.icon_file else standard_pictures()
    lost = {"--icon": icon and not (windows or desktops),
            "--version-string": version and not (windows or app)}  # fmt: skip
    plan.unused = tuple(option for option, given in lost.items() if given)


def _desktop_files(plan: Plan, output: Output) -> list[Path]:
    return desktop_files(output.path) if plan.desktop and output.target.system == "linux" else []


def repack_plan(
    file: Path, out: Path, targets: Sequence[str], *, args: Sequence[str], split: bool
) -> Plan:
    """The plan for what is in a packed executable, with all that its builder decided."""
    if not is_packed(read_head(payload_file(file))):
        raise LlamapackError(f"{file}: not packed by llamapack (llamapack build packs a GGUF)")
    kept = kept_of(open_payload(file))
    wanted = list(targets) or ([kept.target] if kept.target else [])
    slices = kept.slices if UNIVERSAL.name in wanted else ""
    return make_plan(str(file), out, wanted, slices=slices, args=args, split=split)


def rough_sizes(plan: Plan) -> list[tuple[Path, int]]:
    """The files to be written with about their sizes, before anything is compiled."""
    size = plan.weights.size if plan.weights else 0
    files: list[tuple[Path, int]] = []
    for output in plan.outputs:
        limit = FORMATS[output.target.format].max_size
        alone = bool(size) and (plan.split or (limit is not None and size > limit))
        files.append((output.path, RUNTIME_ROOM * len(output.runtimes) + (0 if alone else size)))
        if alone and (plan.out, size) not in files:
            files.append((plan.out, size))
    return files


def weights_path(plan: Plan, outputs: Sequence[Output]) -> Path:
    """Where the weights of these outputs go, if they go into a file of their own: named after the
    output, or after what the user named when there are several."""
    named = outputs[0].path if len(outputs) == 1 else outputs[0].path.with_name(plan.out.name)
    path = _resolve(named.with_name(weights_name(named.name)))
    _check_output(path)
    if plan.model is not None:
        _check_against_input(plan.model, [path])
    return path


def plan_outputs(
    out: Path, targets: Sequence[str], slices: str = "", *, app: bool = False
) -> list[Output]:
    """One target: OUT (with .exe for Windows and universal); several: OUT-<target>[.exe]. app: for
    macOS it is an application, with .app."""
    rows = list(dict.fromkeys(map(find_target, targets))) or [host_target()]
    if not out.name or out.name == "..":
        raise UsageError(f"-o {out} names no file")
    if app and all(row.system != "macos" for row in rows):
        raise UsageError("--app is for macOS: there is no such target")
    if slices and UNIVERSAL not in rows:
        raise UsageError("--slices is about --target universal, which is not asked for")
    outputs = []
    for row in rows:
        is_app = app and row.system == "macos"
        suffix = ".app" if is_app else row.suffix
        path = out if len(rows) == 1 else out.with_name(f"{out.name}-{row.name}")
        parts = find_slices(slices) if row is UNIVERSAL else ()
        outputs.append(Output(row, _resolve(with_suffix(path, suffix)), is_app, parts))
    return outputs


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


def runtime_architectures() -> list[str]:
    """The families in the runtime's table (runtime_c/model/arch.c)."""
    source = find_tree().root / "runtime_c" / "model" / "arch.c"
    return _ARCH_ROW.findall(source.read_text(encoding="utf-8")) if source.is_file() else []


def _check_output(path: Path, app: bool = False) -> None:
    parent = path.parent
    try:
        if app and path.exists():
            if not is_application(path):
                raise LlamapackError(f"{path} is no application and will not be replaced")
        elif path.is_dir():
            raise LlamapackError(f"{path} is a directory; name a file with -o")
        elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
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


def _check_against_input(model: Model, paths: Sequence[Path]) -> None:
    for path in map(payload_file, paths):
        if path.exists() and any(os.path.samefile(path, file) for file in model.files):
            raise LlamapackError(f"{path} is the model itself; name another file with -o")
