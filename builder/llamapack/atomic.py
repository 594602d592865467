"""Files that appear whole or not at all.

The bytes go into `.NAME.lp-tmp-XXXX` in the same directory, are flushed to the disk and renamed
over the final name; then the directory is flushed. Whatever stops the program before the rename
leaves the final name as it was. A killed program leaves the temporary file; the next one for the
same name removes it. The file is locked while in use, so that two at work at once do not remove
each other's.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
import errno
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from llamapack.errors import LlamapackError

__all__ = ["atomic_file", "remove_stale", "scratch_file"]

_MARK = ".lp-tmp-"


@contextlib.contextmanager
def atomic_file(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file to write and seek in; it becomes `path` when the block ends without error."""
    remove_stale(path)
    try:
        with _temporary(path) as (temporary, file):
            with file:
                yield file
                file.flush()
                if sys.platform != "win32":
                    os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                if sys.platform != "win32":  # Windows cannot rename an open file
                    os.replace(temporary, path)
            if sys.platform == "win32":
                os.replace(temporary, path)
            _flush_directory(path.parent)
    except OSError as error:
        raise LlamapackError(_explain(path, error)) from None


@contextlib.contextmanager
def scratch_file(path: Path, pieces: Iterable[bytes]) -> Iterator[Path]:
    """A temporary file beside `path` that holds the pieces, removed when the block ends however it
    ends."""
    try:
        with _temporary(path) as (temporary, file):
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
    except OSError as error:
        raise LlamapackError(_explain(path, error)) from None


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
