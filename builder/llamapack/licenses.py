"""Which licence texts travel inside an executable, and which notices they ask for.

The model brings some (general.license, files beside it or in its package), its family asks for
others. A missing text is a warning for the sender, never a refusal: the sender may know better.

SPDX-License-Identifier: Apache-2.0
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamapack import prebuilt
from llamapack.container import Part
from llamapack.errors import LlamapackError
from llamapack.gguf import Gguf
from llamapack.targets import Target
from llamapack.toolchain import find_tree

__all__ = ["LIBRARIES", "Licenses", "collect", "library_license"]

# By system, the C library that is linked into its runtimes: its folder and file in ziglang. What
# the other systems link is their own, and stays outside.
LIBRARIES = {
    "linux": (("musl", "COPYRIGHT"),),
    "windows": (("mingw", "COPYING"),),
    "freebsd": (("freebsd", "COPYRIGHT"),),  # of the code that starts a program
}
_PROJECTS = {"musl": "musl", "mingw": "mingw-w64", "freebsd": "freebsd"}

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


def collect(
    gguf: Gguf | None, found: list[Path], embedded: dict[str, bytes], targets: Sequence[Target]
) -> Licenses:
    """Entries and notices for a model (None: no weights): texts `found` as files, and those an
    executable it comes from had `embedded`."""
    licenses = Licenses(sources=list(found) if gguf else [])
    texts: dict[str, bytes] = {}
    if gguf is not None:
        texts |= embedded
        for path in found:
            data, name = _read(path), path.name
            while name in texts and texts[name] != data:
                name = f"{name}_"
            texts[name] = data
        licenses.name = gguf.text("general.license")
        _add_family(licenses, texts, gguf)
    licenses.parts = [Part(f"licenses/model/{name}", texts[name]) for name in sorted(texts)]
    licenses.parts += _own_parts(targets)
    return licenses


def _own_parts(targets: Sequence[Target]) -> list[Part]:
    """llamapack's licence, and those of the C libraries linked into the runtimes."""
    parts = []
    own = _own_license()
    if own:
        parts.append(Part("licenses/llamapack/LICENSE", own))
    systems = dict.fromkeys(target.system for target in targets)
    for folder, file in [row for system in systems for row in LIBRARIES.get(system, ())]:
        name = f"{folder}/{file}"
        text = library_license(name) or prebuilt.library_license(name)
        if text:
            parts.append(Part(f"licenses/{_PROJECTS[folder]}/{file}", text))
    return parts


def library_license(name: str) -> bytes:
    """A file below lib/libc of the ziglang package; b"" when it is not there."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        return b""
    path = Path(spec.origin).parent / "lib" / "libc" / name
    return path.read_bytes() if path.is_file() else b""


def _own_license() -> bytes:
    path = find_tree().root / "LICENSE"
    return path.read_bytes() if path.is_file() else b""


def _add_family(licenses: Licenses, texts: dict[str, bytes], gguf: Gguf) -> None:
    """Notices of the known families; a warning where the licence's text itself is missing."""
    name = licenses.name.lower()
    have_text = any(_is_license_text(file) for file in texts)
    if name in _LLAMA:
        model, agreement, licenses.notice = _LLAMA[name]
        notice = (
            f"{model} is licensed under the {agreement} Community License, "
            "Copyright (c) Meta Platforms, Inc. All Rights Reserved."
        )
        texts.setdefault("Notice", notice.encode() + b"\n")
    elif name == "gemma" or (not name and _older_gemma(gguf)):
        licenses.name = licenses.name or "gemma"
        licenses.notice = _GEMMA_NOTICE
        texts.setdefault("Notice", _GEMMA_NOTICE.encode() + b"\n")
    elif name == "apache-2.0" and not have_text and b"Apache License" in _own_license():
        # The very same text; llamapack has it because it is its own licence too.
        texts["LICENSE"] = _own_license()
        have_text = True
    if not have_text:
        what = f"the model's licence ({licenses.name})" if name else "the model's licence"
        licenses.warnings.append(
            f"the text of {what} was not found; most licences ask that it travels with the "
            "model: add it with --license-file"
        )


def _older_gemma(gguf: Gguf) -> bool:
    """Gemma 1 to 3: Gemma 4 came under Apache-2.0."""
    return gguf.architecture in ("gemma", "gemma2", "gemma3", "gemma3n")


def _is_license_text(name: str) -> bool:
    return "NOTICE" not in name.upper() and "USE_POLICY" not in name.upper()


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
