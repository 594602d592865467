"""Makes builder/llamapack/_generated: tables, templates and the page, which are not in git.

Each generator is a module of this folder with `generate(root, out)`. A stamp in _generated
remembers the content hash of the generator and its inputs, so a second run does nothing. Used
by the build backend (all generators) and by llamapack.native in a checkout (those that need
neither network nor Node).

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

# Name of the generator: what it reads besides itself, relative to the project root.
GENERATORS: dict[str, tuple[str, ...]] = {
    "unicode_tables": (),
    "chat_templates": ("templates/chat",),
    "web": ("templates/web",),
}
LIGHT = ("unicode_tables", "chat_templates")

_IGNORED = {"node_modules", "dist", "__pycache__", "test-results"}


def refresh(root: Path, names: tuple[str, ...] = tuple(GENERATORS)) -> list[str]:
    """Runs the generators whose stamp is stale; returns their names."""
    out = root / "builder" / "llamapack" / "_generated"
    return [name for name in names if _refresh_one(root, out, name)]


def _refresh_one(root: Path, out: Path, name: str) -> bool:
    source = root / "builder" / "generate" / f"{name}.py"
    if not source.is_file():
        return False
    stamp = out / ".stamps" / name
    wanted = _content_hash(root, source, GENERATORS[name])
    if stamp.is_file() and stamp.read_text() == wanted:
        return False
    stamp.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.spec_from_file_location(f"llamapack_generate_{name}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate(root, out)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(wanted)
    return True


def _content_hash(root: Path, source: Path, inputs: tuple[str, ...]) -> str:
    digest = hashlib.sha256(source.read_bytes())
    for folder in inputs:
        for path in _files(root / folder):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name in _IGNORED:
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
