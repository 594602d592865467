"""Runs somebody's signing tool over a finished file: `--sign-cmd 'tool --key k.pem {file}'`.

The command is split into words as a POSIX shell would (quotes keep blanks together), but no shell
runs it: no variables, no pipes. On Windows a backslash is a character like others. Then, in every
word, these are replaced:

    {file}    the file to sign, which lies in a directory of its own under its final name
    {out}     where a tool that does not sign in place is to write the signed one
    {target}  such as windows-x86_64

SPDX-License-Identifier: Apache-2.0
"""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llamapack.errors import LlamapackError, UsageError

__all__ = ["SignCommand", "parse_sign_command"]

_SHOWN = 400  # characters of what a failed tool said


@dataclass(frozen=True, slots=True)
class SignCommand:
    words: tuple[str, ...]

    @property
    def tool(self) -> str:
        return self.words[0]

    def run(self, file: Path, target: str) -> None:
        """Signs the file, which lies in a directory of its own."""
        before = set(os.listdir(file.parent))
        out = file.with_name(f"signed-{file.name}")
        words = [
            word.replace("{file}", str(file)).replace("{out}", str(out)).replace("{target}", target)
            for word in self.words
        ]
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LlamapackError(f"--sign-cmd: cannot run {words[0]}: {reason}") from None
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            raise LlamapackError(
                f"--sign-cmd: {self.tool} failed on {file.name} ({_ending(done.returncode)}): "
                f"{_short(said)}",
                details=said,
            )
        if self._writes_out:
            if not out.is_file():
                raise LlamapackError(f"--sign-cmd: {self.tool} wrote no {{out}}: {_short(said)}")
            os.replace(out, file)
        if not file.is_file():
            raise LlamapackError(f"--sign-cmd: {self.tool} removed the file: {_short(said)}")
        beside = sorted(set(os.listdir(file.parent)) - before)
        if beside:
            raise LlamapackError(
                f"--sign-cmd: {self.tool} wrote {beside[0]!r} beside the file, where it "
                "would be lost; make a signature that is a file of its own after the build"
            )

    @property
    def _writes_out(self) -> bool:
        return any("{out}" in word for word in self.words)


def parse_sign_command(text: str) -> SignCommand:
    """Checks what can be known before there is a file to sign."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    if sys.platform == "win32":
        lexer.escape = ""
    try:
        words = tuple(lexer)
    except ValueError:
        raise UsageError("--sign-cmd: a quotation mark is not closed") from None
    if not words:
        raise UsageError("--sign-cmd: names no tool")
    if not any("{file}" in word for word in words):
        raise UsageError("--sign-cmd: the tool must be told the file: 'tool {file}'")
    if "{" not in words[0] and shutil.which(words[0]) is None:
        raise UsageError(f"--sign-cmd: no program {words[0]!r} is to be found")
    return SignCommand(words)


def _ending(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"ended by signal {-code}"


def _short(said: str) -> str:
    """The end of it, where tools say why they stopped."""
    line = " | ".join(" ".join(line.split()) for line in said.splitlines() if line.strip())
    if not line:
        return "it said nothing"
    return line if len(line) <= _SHOWN else f"... {line[-_SHOWN:]}"
