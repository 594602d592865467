"""Which licence texts travel inside an executable, and which notices they ask for.

The model brings some (general.license, files beside it or in its package), its family asks for
others. A missing text is a warning for the sender, never a refusal: the sender may know better.

SPDX-License-Identifier: Apache-2.0
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from llamapack.container import Part
from llamapack.errors import LlamapackError
from llamapack.gguf import Gguf
from llamapack.targets import Target
from llamapack.toolchain import find_tree

__all__ = ["Licenses", "collect"]

_MAX_TEXT = 4 << 20
_NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
_LLAMA = {  # general.license: (the agreement's name, whether "Built with ..." is asked for)
    "llama2": ("Llama 2", "LLAMA 2", ""),
    "llama3": ("Meta Llama 3", "Meta Llama 3", "Built with Meta Llama 3"),
    "llama3.1": ("Llama 3.1", "Llama 3.1", "Built with Llama"),
    "llama3.2": ("Llama 3.2", "Llama 3.2", "Built with Llama"),
    "llama3.3": ("Llama 3.3", "Llama 3.3", "Built with Llama"),
    "llama4": ("Llama 4", "Llama 4", "Built with Llama"),
}
_GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)


@dataclass(slots=True)
class Licenses:
    name: str = ""
    notice: str = ""
    parts: list[Part] = field(default_factory=list)
    sources: list[Path] = field(default_factory=list)  # the model's texts that were found
    warnings: list[str] = field(default_factory=list)


def collect(gguf: Gguf | None, found: list[Path], target: Target) -> Licenses:
    """Entries and notices for a model (None: no weights) whose texts were `found`."""
    licenses = Licenses()
    _add_own(licenses, target)
    if gguf is None:
        return licenses
    licenses.name = gguf.text("general.license")
    used: set[str] = set()
    for path in found:
        name = path.name
        while name in used:
            name = f"{name}_"
        used.add(name)
        licenses.parts.append(Part(f"licenses/model/{name}", _read(path)))
        licenses.sources.append(path)
    _add_family(licenses, gguf)
    return licenses


def _add_own(licenses: Licenses, target: Target) -> None:
    """llamapack's licence, and those of the C library linked into the runtime."""
    own = find_tree().root / "LICENSE"
    if own.is_file():
        licenses.parts.append(Part("licenses/llamapack/LICENSE", own.read_bytes()))
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        return
    libc = {
        "linux": ("musl", "musl/COPYRIGHT"),
        "windows": ("mingw-w64", "mingw/COPYING"),
    }.get(target.system)
    if libc is not None:
        text = Path(spec.origin).parent / "lib" / "libc" / libc[1]
        if text.is_file():
            name = f"licenses/{libc[0]}/{text.name}"
            licenses.parts.append(Part(name, text.read_bytes()))


def _add_family(licenses: Licenses, gguf: Gguf) -> None:
    """Notices of the known families; a warning where the text itself is missing."""
    name = licenses.name.lower()
    have_text = any(_is_license_text(path) for path in licenses.sources)
    if name in _LLAMA:
        model, agreement, built_with = _LLAMA[name]
        notice = (
            f"{model} is licensed under the {agreement} Community License, "
            "Copyright (c) Meta Platforms, Inc. All Rights Reserved."
        )
        licenses.parts.append(Part("licenses/model/Notice", notice.encode() + b"\n"))
        licenses.notice = built_with
    elif name == "gemma" or (not name and _older_gemma(gguf)):
        licenses.name = licenses.name or "gemma"
        licenses.parts.append(Part("licenses/model/Notice", _GEMMA_NOTICE.encode() + b"\n"))
        licenses.notice = _GEMMA_NOTICE
    elif name == "apache-2.0" and not have_text:
        own = next((p for p in licenses.parts if p.name == "licenses/llamapack/LICENSE"), None)
        if own is not None and b"Apache License" in own.data:
            licenses.parts.append(Part("licenses/model/LICENSE", own.data))
            have_text = True
    if not have_text:
        what = f"of the model's licence ({licenses.name})" if name else "of the model's licence"
        licenses.warnings.append(
            f"the text {what} was not found; most licences ask that it travels with the "
            "model: add it with --license-file"
        )


def _older_gemma(gguf: Gguf) -> bool:
    """Gemma 1 to 3: Gemma 4 came under Apache-2.0."""
    return gguf.architecture in ("gemma", "gemma2", "gemma3", "gemma3n")


def _is_license_text(path: Path) -> bool:
    return "NOTICE" not in path.name.upper() and "USE_POLICY" not in path.name.upper()


def find_beside(model: Path) -> list[Path]:
    """Licence texts beside a model file, such as LICENSE, NOTICE.txt or NAME.LICENSE."""
    try:
        names = sorted(model.parent.iterdir())
    except OSError:
        return []
    own = f"{model.stem.upper()}.{_NAMES[0]}"
    return [
        path
        for path in names
        if (path.name.upper().startswith(_NAMES) or path.name.upper().startswith(own))
        and path.suffix.lower() in ("", ".txt", ".md", ".license")
        and path.is_file()
    ]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise LlamapackError(f"{path}: too large for a licence text")
        return path.read_bytes()
    except OSError as error:
        raise LlamapackError(f"cannot read {path}: {error.strerror}") from None
