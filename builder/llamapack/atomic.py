"""Files that appear whole or not at all.

The bytes go into `.NAME.lp-tmp-XXXX` in the same directory, are flushed to the disk and renamed
over the final name; then the directory is flushed. Whatever stops the program before the rename
leaves the final name as it was. A killed program leaves the temporary file; the next one for the
same name removes it. The file is locked while in use, so that two at work at once do not remove
each other's. Of several files that belong together all appear or none; only a program killed
between two renames leaves one of them old.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
import errno
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from llamapack.errors import LlamapackError

__all__ = ["atomic_file", "atomic_files", "explained", "remove_stale", "scratch_file"]

_MARK = ".lp-tmp-"


@contextlib.contextmanager
def atomic_file(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file to write and seek in; it becomes `path` when the block ends without error."""
    with atomic_files([(path, mode)]) as (file,):
        yield file


@contextlib.contextmanager
def atomic_files(wanted: Sequence[tuple[Path, int]]) -> Iterator[list[BinaryIO]]:
    """New files to write and seek in; all become their paths (with their modes) when the block ends
    without error, in this order. When a rename fails, those before it are taken back."""
    with contextlib.ExitStack() as stack:
        made: list[tuple[Path, Path, BinaryIO]] = []
        for path, mode in wanted:
            remove_stale(path)
            stack.enter_context(explained(path))
            temporary, file = stack.enter_context(_temporary(path))
            stack.enter_context(file)
            if sys.platform != "win32":
                os.fchmod(file.fileno(), mode)
            made.append((path, temporary, file))
        yield [file for _, _, file in made]
        for path, _, file in made:
            with explained(path):
                file.flush()
                os.fsync(file.fileno())
                if sys.platform == "win32":  # Windows cannot rename an open file
                    file.close()
        _rename_all([(temporary, path) for path, temporary, _ in made])
        for folder in dict.fromkeys(path.parent for path, _ in wanted):
            _flush_directory(folder)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the system's errors into one line about writing this file."""
    try:
        yield
    except OSError as error:
        raise LlamapackError(_explain(path, error)) from None


def _rename_all(moves: Sequence[tuple[Path, Path]]) -> None:
    kept: list[tuple[Path, Path | None]] = []  # what was replaced, and where the old one is now
    try:
        for number, (temporary, path) in enumerate(moves, 1):
            with explained(path):
                if number < len(moves):
                    kept.append((path, _set_aside(path)))
                os.replace(temporary, path)
    except BaseException:
        for path, old in reversed(kept):
            with contextlib.suppress(OSError):
                if old is None:
                    path.unlink()
                else:
                    os.replace(old, path)
                    # Two names of one file are left alone by a rename.
                    old.unlink(missing_ok=True)
        raise
    for _, old in kept:
        if old is not None:
            with contextlib.suppress(OSError):
                old.unlink()


def _set_aside(path: Path) -> Path | None:
    """A second name for what is there, so that it can come back; None if nothing is."""
    if not path.exists():
        return None
    aside = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(8)}")
    try:
        os.link(path, aside)
    except OSError:  # a file system without hard links
        os.replace(path, aside)
    return aside


@contextlib.contextmanager
def scratch_file(path: Path, pieces: Iterable[bytes]) -> Iterator[Path]:
    """A temporary file beside `path` that holds the pieces, removed when the block ends however it
    ends."""
    with explained(path), _temporary(path) as (temporary, file):
        with file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            if sys.platform != "win32":
                yield temporary
        if sys.platform == "win32":
            # Nothing that is open for writing can be mapped there; what is open for reading is
            # not taken for a stale one.
            with temporary.open("rb"):
                yield temporary


def remove_stale(path: Path) -> None:
    """Removes what killed builds of this file left behind."""
    prefix = f".{path.name}{_MARK}"
    try:
        names = os.listdir(path.parent)
    except OSError:
        return
    for name in names:
        if name.startswith(prefix):
            with contextlib.suppress(OSError):
                _remove_unused(path.parent / name)


def _remove_unused(temporary: Path) -> None:
    # Windows refuses to remove a file that is open, so the attempt is the test.
    with temporary.open("rb") as file:
        if not _lock(file):
            return
        if sys.platform != "win32":
            temporary.unlink()
    if sys.platform == "win32":
        temporary.unlink()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, gone when the block ends if it still has its name. That is settled
    before the file exists, so that a signal at any moment leaves nothing behind."""
    temporary = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(8)}")
    try:
        yield temporary, _create(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _create(temporary: Path, path: Path) -> BinaryIO:
    while True:
        try:
            file = temporary.open("xb+")
        except FileExistsError:  # the other build is about to remove it
            time.sleep(0.001)
            continue
        except OSError as error:
            raise LlamapackError(_explain(path, error)) from None
        # Between creation and lock another build may have taken the file for a stale one.
        locked = True
        with contextlib.suppress(OSError):  # without locks nobody takes it for one either
            locked = _lock(file)
        if locked and _same(temporary, file):
            return file
        file.close()


def _lock(file: BinaryIO) -> bool:
    """Whether nobody else has the file; OSError on a file system without locks."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _flush_directory(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # some file systems refuse it; the file itself is safe
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: cannot write {path}"
    if error.errno == errno.EFBIG:
        return f"cannot write {path}: larger than this system or file system allows"
    return f"cannot write {path}: {error.strerror or error}"
