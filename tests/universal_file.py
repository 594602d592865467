"""Universal files for tests, and ways to start them.

`probe_file` makes a small one whose runtimes are launch_probe.c, so that its start can be looked at
from inside; `start` starts a file through a shell and reads what the probe says.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from llamapack import toolchain
from llamapack.container import Facts, Part, write_container
from llamapack.formats import universal
from llamapack.targets import find_target

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "templates" / "launch" / "universal.sh"
SHELLS = (
    "dash", "bash", "bash --posix", "zsh", "busybox ash", "ksh93", "mksh", "yash", "posh",
)  # fmt: skip

# An ELF of ARM64, program or PIE, for binfmt_misc.
AARCH64 = (
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
)


def compile_probe(target_name: str) -> bytes:
    """The probe for one system."""
    target = find_target(target_name)
    tree = toolchain.find_tree()
    source = toolchain.Source(HERE / "launch_probe.c", "tests/launch_probe.c", ("-O1",))
    objects = toolchain.compile_all(tree, [source], toolchain.runtime_flags(target))
    # As the runtime is linked, so that its C library serves.
    pie = () if target.windows else ("-fPIE",)
    link = ("-target", target.triple, "-s", *pie, *target.link_flags)
    return toolchain.link(objects, link, f"probe{target.suffix}")


def probe_file(
    path: Path,
    targets: Sequence[str] | dict[str, bytes] = ("linux-x86_64", "linux-aarch64"),
    windows: bytes | None = None,
    script: str | None = None,
) -> universal.Universal:
    """Writes one to path; targets: the slices, by name or with what takes the probe's place."""
    windows = windows if windows is not None else compile_probe("windows-x86_64")
    given = targets if isinstance(targets, dict) else {}
    others = {name: given.get(name) or compile_probe(name) for name in targets}
    whole = universal.assemble(windows, others, script or SCRIPT.read_text())
    parts = [Part(piece.entry, piece.data, align=universal.BLOCK) for piece in whole.slices]
    with path.open("wb+") as file:
        facts = Facts(slices=("windows-x86_64", *targets))
        write_container(file, whole.runtime, find_target("universal"), parts, None, facts)
    path.chmod(0o755)
    return whole


@dataclass
class Started:
    """What the probe said."""

    code: int
    errors: str
    fields: dict[str, str] = field(default_factory=dict)
    args: list[str] = field(default_factory=list)

    @property
    def cached(self) -> Path:
        """The runtime's own path."""
        return Path(self.fields["self"])


def collect(
    words: Sequence[str | Path], env: dict[str, str], stdin: bytes = b"", **options: Any
) -> tuple[int, str, str]:
    """Status, standard output and error of a command; variables that are "" do not exist. Through
    files: wine's server may live on and hold a pipe open."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.run(
            [str(word) for word in words],
            env={key: value for key, value in env.items() if value != ""},
            input=stdin,
            stdout=out,
            stderr=errors,
            check=False,
            **options,
        )
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return process.returncode, texts[0], texts[1]


def start(
    words: Sequence[str | Path],
    home: Path,
    *,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    timeout: float = 120,
    **options: Any,
) -> Started:
    """Runs a command with nothing in its environment but PATH, HOME and env ("" removes)."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **(env or {})}
    code, said, errors = collect(words, environment, stdin, timeout=timeout, **options)
    started = Started(code, errors)
    for part in said.split("\0")[:-1]:
        key, _, value = part.partition("=")
        if key == "arg":
            started.args.append(value)
        else:
            started.fields[key] = value
    return started


def shell_command(name: str) -> list[str]:
    """The words that start a shell; skips where it is missing."""
    words = name.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    return words


def need_namespaces() -> None:
    """Skips where an ordinary user may not mount in a namespace of his own."""
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("optional: no right to mount in a namespace of our own")


def binfmt(rule: str, *words: str | Path) -> list[str | Path]:
    """The command in a namespace whose kernel knows one more kind of executable; "NAME:..."."""
    mount = "/proc/sys/fs/binfmt_misc"
    script = f'mount -t binfmt_misc none {mount} && printf %s "$1" >{mount}/register || exit 99; '
    return ["unshare", "-Urm", "sh", "-c", script + 'shift; exec "$@"', "sh", f":{rule}", *words]


def need_binfmt() -> None:
    need_namespaces()
    if subprocess.run(
        binfmt("t:M::MZa=::/bin/true:", "true"), check=False, capture_output=True
    ).returncode:
        pytest.skip("optional: this kernel has no binfmt_misc for namespaces")


def fake_uname(folder: Path, system: str, machine: str, processor: str = "") -> str:
    """A PATH in whose front `uname` tells of another machine."""
    folder.mkdir()
    program = folder / "uname"
    program.write_text(
        f"#!/bin/sh\ncase $1 in -s) echo {system} ;; -m) echo {machine} ;; -p) echo {processor} ;; esac\n"
    )
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
