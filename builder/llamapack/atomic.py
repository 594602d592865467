"""Files that appear whole or not at all.

The bytes go into `.NAME.lp-tmp-XXXX` in the same directory, are flushed to the disk and renamed
over the final name; then the directory is flushed. Whatever stops the program before the rename
leaves the final name as it was. A killed program leaves the temporary file; the next one for the
same name removes it. The file is locked while in use, so that two at work at once do not remove
each other's. Of several files that belong together all appear or none; only a program killed
between two renames leaves one of them old.

Foreign tools that work on a file want it closed, under a name that they understand, and may put
another in its place. For them it moves into a directory `.NAME.lp-tmp-XXXX` beside the output,
which a file `lock` guards in the same way.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from llamapack.errors import LlamapackError

__all__ = ["Finish", "atomic_file", "atomic_files", "explained", "remove_stale", "scratch_file"]

_MARK = ".lp-tmp-"
# Linux keeps what is written at once by this much in pages of 2 MiB: weights are then read faster.
_BUFFER = 16 << 20
_LOCK = "lock"

Finish = Callable[[Path], None]
"""Is given where a finished, closed file lies, under its final name in a directory of its own; may
change or replace it. When it raises, the file does not appear."""


@contextlib.contextmanager
def atomic_file(path: Path, mode: int, finish: Finish | None = None) -> Iterator[BinaryIO]:
    """A new file to write and seek in; it becomes `path` when the block ends without error."""
    with atomic_files([(path, mode)], {path: finish} if finish else {}) as (file,):
        yield file


@contextlib.contextmanager
def atomic_files(
    wanted: Sequence[tuple[Path, int]], finish: Mapping[Path, Finish] | None = None
) -> Iterator[list[BinaryIO]]:
    """New files to write and seek in; all become their paths (with their modes) when the block ends
    without error, in this order. When a rename fails, those before it are taken back. finish: by
    path, what is to be done to a file before any gets its name."""
    finish = finish or {}
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
        moves = [(temporary, path) for path, temporary, _ in made]
        for i, (path, mode) in enumerate(wanted):
            if path in finish:
                with explained(path):
                    folder = stack.enter_context(_private_folder(path))
                    goal = folder / path.name
                    os.replace(moves[i][0], goal)
                    made[i][2].close()
                    finish[path](goal)
                    _settle(goal, mode)
                    moves[i] = (goal, path)
        _rename_all(moves)
        for folder in dict.fromkeys(path.parent for path, _ in wanted):
            _flush_directory(folder)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the system's errors into one line about writing this file."""
    try:
        yield
    except OSError as error:
        raise LlamapackError(_explain(path, error)) from None


def _settle(path: Path, mode: int) -> None:
    if sys.platform != "win32":
        path.chmod(mode)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


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
    if temporary.is_dir():
        with contextlib.suppress(FileNotFoundError):
            _remove_unused(temporary / _LOCK)  # an error when it is in use, on Windows
        if not (temporary / _LOCK).exists():
            shutil.rmtree(temporary)
        return
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


@contextlib.contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """A new directory beside `path`, gone with what is in it when the block ends."""
    folder = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(8)}")
    try:
        with _create(folder / _LOCK, path, with_folder=True):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create(temporary: Path, path: Path, *, with_folder: bool = False) -> BinaryIO:
    while True:
        try:
            if with_folder:
                temporary.parent.mkdir(exist_ok=True)
            file = temporary.open("xb+", buffering=_BUFFER)
        except FileExistsError:  # the other build is about to remove it
            time.sleep(0.001)
            continue
        except FileNotFoundError as error:
            # An empty directory without lock is taken for a stale one, too.
            if with_folder and path.parent.is_dir():
                continue
            raise LlamapackError(_explain(path, error)) from None
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
