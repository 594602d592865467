"""What desktops show of a program: a macOS application (NAME.app), a .desktop file on Linux.

    NAME.app/Contents/Info.plist
    NAME.app/Contents/MacOS/NAME          the program, which ends with its signature
    NAME.app/Contents/Resources/model     the archive, which an executable has behind itself
    NAME.app/Contents/Resources/icon.icns

So `codesign` can sign the whole; it refuses a program with bytes behind its signature. An
application is written under another name in the same directory and then renamed; `.NAME.lp-tmp-*`
of a killed build is removed by the next one.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
import os
import plistlib
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import llamapack
from llamapack.atomic import atomic_file
from llamapack.errors import LlamapackError
from llamapack.formats import macho
from llamapack.formats.icns import icns
from llamapack.formats.resources import version_numbers
from llamapack.targets import Target
from llamapack.toolchain import find_tree

__all__ = [
    "application",
    "is_application",
    "payload_file",
    "program_row",
    "write_desktop",
]

_PAYLOAD = "Contents/Resources/model"
_MARK = ".lp-tmp-"


def payload_file(path: Path) -> Path:
    """The file with the archive: of an application the one inside, else the path itself."""
    inner = path / _PAYLOAD
    return inner if path.is_dir() and inner.is_file() else path


def is_application(path: Path) -> bool:
    return (path / "Contents" / "Info.plist").is_file()


def program_row(runtime: bytes, name: str) -> dict[str, Any]:
    """What the archive says of the program beside it: the manifest's "program"."""
    from llamapack.container import hash_without

    size = macho.program_size(runtime)
    skip = [span for span in macho.mutable_ranges(runtime) if span[0] < size]
    digest = hash_without(runtime[:size], skip)
    return {"name": name, "size": size, "sha256": digest, "skip": [list(span) for span in skip]}


@contextlib.contextmanager
def application(
    path: Path,
    runtime: bytes,
    target: Target,
    title: str,
    pictures: dict[int, bytes],
    version: str = "",
) -> Iterator[BinaryIO]:
    """An application to be `path` (NAME.app) when the block ends without error. Gives the file that
    its archive is to be written to. version: "" for llamapack's."""
    try:
        with _temporary_directory(path) as folder:
            contents = folder / "Contents"
            for name in ("MacOS", "Resources"):
                (contents / name).mkdir(parents=True)
            program = contents / "MacOS" / path.stem
            _write(program, runtime, 0o755)
            _write(contents / "Info.plist", _info(path.stem, target, title, version), 0o644)
            _write(contents / "Resources" / "icon.icns", icns(pictures), 0o644)
            with (folder / _PAYLOAD).open("xb+") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            (folder / _PAYLOAD).chmod(0o644)
            _replace(folder, path)
    except OSError as error:
        raise LlamapackError(f"cannot write {path}: {error.strerror or error}") from None


def _info(stem: str, target: Target, title: str, version: str) -> bytes:
    template = find_tree().root / "templates" / "launch" / "Info.plist"
    info = plistlib.loads(template.read_bytes())
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "chat"
    info |= {
        "CFBundleDisplayName": title,
        "CFBundleExecutable": stem,
        "CFBundleIconFile": "icon",
        "CFBundleIdentifier": f"llamapack.{slug}",
        "CFBundleName": title,
        # The first is shown, any text; the second is compared, up to three numbers.
        "CFBundleShortVersionString": version or llamapack.__version__,
        "CFBundleVersion": ".".join(map(str, version_numbers(version)[:3]))
        if version
        else llamapack.__version__,
        "LSMinimumSystemVersion": target.triple.partition("macos.")[2],
    }
    return plistlib.dumps(info)


def _write(path: Path, data: bytes, mode: int) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(mode)


@contextlib.contextmanager
def _temporary_directory(path: Path) -> Iterator[Path]:
    """A new directory beside `path`, gone when the block ends if it still has its name."""
    _remove_stale(path)
    folder = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(8)}")
    with contextlib.ExitStack() as held:
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir()
        if sys.platform != "win32":
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            held.callback(os.close, handle)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder


def _remove_stale(path: Path) -> None:
    """What killed builds left; what another one is at work on is locked."""
    for folder in path.parent.glob(f".{path.name}{_MARK}*"):
        if not folder.is_dir() or sys.platform == "win32":
            continue
        import fcntl

        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder.name.endswith("-old") and not path.exists():
                    folder.rename(path)  # killed between the two renames of _replace
                else:
                    shutil.rmtree(folder)
            finally:
                os.close(handle)


def _replace(folder: Path, path: Path) -> None:
    """Directories cannot be replaced in one step: the old one is moved away before."""
    old = folder.with_name(f"{folder.name}-old")
    if not path.is_dir():
        os.rename(folder, path)
        return
    os.rename(path, old)
    try:
        os.rename(folder, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def desktop_files(program: Path) -> list[Path]:
    """What --desktop writes beside a program: its entry for menus, and the entry's icon."""
    return [program.with_name(program.name + suffix) for suffix in (".desktop", ".png")]


def write_desktop(program: Path, title: str, pictures: dict[int, bytes]) -> list[Path]:
    """NAME.desktop beside the program, and NAME.png; gives their paths."""
    template = find_tree().root / "templates" / "launch" / "chat.desktop"
    name = program.name
    script = f'f="${{1%/*}}/{_shell(name)}"; [ -x "$f" ] || f={_shell_word(name)}; exec "$f"'
    filled = template.read_text(encoding="utf-8") % {
        "name": _string(title),
        "comment": _string("A chat with a language model on this computer"),
        "exec": _string(f"sh -c {_quoted(script)} sh %k"),
        "icon": _string(name),
    }
    lines = [line for line in filled.splitlines() if not line.startswith("#")]
    made = desktop_files(program)
    with atomic_file(made[0], 0o755) as file:
        file.write("\n".join([*lines, ""]).encode())
    with atomic_file(made[1], 0o644) as file:
        file.write(pictures[max(pictures)])
    return made


def _string(text: str) -> str:
    """A value of type string (Desktop Entry Specification: value types)."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _quoted(text: str) -> str:
    """An argument of Exec, before it is made a string (the specification: the Exec key)."""
    return '"' + re.sub(r'(["`$\\])', r"\\\1", text).replace("%", "%%") + '"'


def _shell(text: str) -> str:
    """For the inside of double quotes in a shell script."""
    return re.sub(r'(["`$\\])', r"\\\1", text)


def _shell_word(text: str) -> str:
    return f'"{_shell(text)}"'
