"""Runs a Windows program under wine, with pipes or in a console window of its own (a pty).

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path


def environment() -> dict[str, str]:
    """Messages of wine itself would stand among the program's."""
    return {**os.environ, "WINEDEBUG": "-all", "LC_ALL": "C.UTF-8", "TERM": "xterm"}


def run(
    wine: str, program: Path | str, *arguments: str, code: int | None = 0, stdin: bytes = b"",
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """With pipes, as from a script."""
    done = subprocess.run(
        [wine, str(program), *arguments],
        env=environment(),
        input=stdin,
        capture_output=True,
        timeout=600,
        check=False,
    )
    said = done.stderr.decode(errors="replace")
    assert code is None or done.returncode == code, said
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), said
    )


class Console:
    """A program in a console; wine draws its window with escape sequences. A context manager."""

    def __init__(self, wine: str, *command: str) -> None:
        self.master, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))

        def own_terminal() -> None:
            fcntl.ioctl(inner, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [wine, *command],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment(),
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(inner)
        self.raw = b""

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=20)
        os.close(self.master)

    @property
    def text(self) -> str:
        """What stands in the window, without the sequences that draw it."""
        text = re.sub(
            r"\x1b\][^\x07]*\x07|\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode("utf-8", "replace")
        )
        return text.replace("\r", "")

    @property
    def titles(self) -> list[str]:
        return [t.decode() for t in re.findall(rb"\x1b\]0;([^\x07]*)\x07", self.raw)]

    def _read(self, seconds: float) -> bool:
        """Whether the window still stands."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # how Linux tells that the other end was closed
            return False
        self.raw += data
        return bool(data)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while text not in self.text:
            assert self._read(0.2), f"ended before {text!r}: {self.text}"
            assert time.monotonic() < end, f"no {text!r}: {self.text}"

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self, seconds: float = 60) -> int:
        """Reads on until the program has ended by itself; its exit status."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"does not end: {self.text}"
            if not self._read(0.1):
                break
        status = self.process.wait(timeout=max(end - time.monotonic(), 1))
        while select.select([self.master], [], [], 0.2)[0] and self._read(0):
            continue
        return status
