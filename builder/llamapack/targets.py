"""A row per operating system and CPU that a model can be packed for.

SPDX-License-Identifier: Apache-2.0
"""

import platform
import sys
from dataclasses import dataclass

from llamapack.errors import UsageError

__all__ = ["TARGETS", "UNIVERSAL", "Target", "find_slices", "find_target", "host_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """How to compile for one system and what its executables look like."""

    name: str  # what --target takes and the manifest says
    arch: str  # as isa.def names it: x86_64, aarch64
    system: str  # linux, windows, macos, freebsd, netbsd, openbsd
    triple: str  # what `zig cc -target` takes; the oldest system that still counts
    format: str  # elf, pe, macho, universal: picks the module in llamapack.formats
    suffix: str  # appended to the output name
    link_flags: tuple[str, ...]
    description: str
    state: str  # how far it was tried: TESTED ... EXPERIMENTAL

    @property
    def windows(self) -> bool:
        return self.system == "windows"

    @property
    def experimental(self) -> bool:
        return self.state == EXPERIMENTAL


TESTED = "tested natively"
QEMU = "tested under qemu"
WINE = "tested under wine"
CHECKED = "built and checked, not run"
EXPERIMENTAL = "experimental: built and checked, not run"

_BSD_FLAGS = ("-pie", "-pthread", "-lm")

# Linux is static musl, so that the file starts on every distribution. The macOS numbers are the
# oldest releases that matter: zig's own default would ask for macOS 15. The BSDs have no static
# libc in zig: these files are linked dynamically with the system's own.
TARGETS: tuple[Target, ...] = (
    Target(
        "linux-x86_64",
        "x86_64",
        "linux",
        "x86_64-linux-musl",
        "elf",
        "",
        ("-static", "-pie"),
        "Linux on x86-64, any distribution (static)",
        TESTED,
    ),
    Target(
        "linux-aarch64",
        "aarch64",
        "linux",
        "aarch64-linux-musl",
        "elf",
        "",
        ("-static", "-pie"),
        "Linux on ARM64, any distribution (static)",
        QEMU,
    ),
    Target(
        "windows-x86_64",
        "x86_64",
        "windows",
        "x86_64-windows-gnu",
        "pe",
        ".exe",
        ("-lws2_32", "-lshell32", "-ladvapi32"),
        "Windows 10 and later on x86-64",
        WINE,
    ),
    Target(
        "windows-aarch64",
        "aarch64",
        "windows",
        "aarch64-windows-gnu",
        "pe",
        ".exe",
        ("-lws2_32", "-lshell32", "-ladvapi32"),
        "Windows 11 and later on ARM64",
        CHECKED,
    ),
    Target(
        "macos-aarch64",
        "aarch64",
        "macos",
        "aarch64-macos.11.0",
        "macho",
        "",
        (),
        "macOS 11 and later on Apple silicon",
        CHECKED,
    ),
    Target(
        "macos-x86_64",
        "x86_64",
        "macos",
        "x86_64-macos.10.15",
        "macho",
        "",
        (),
        "macOS 10.15 and later on Intel",
        CHECKED,
    ),
    Target(
        "freebsd-x86_64",
        "x86_64",
        "freebsd",
        "x86_64-freebsd.14.0",
        "elf",
        "",
        _BSD_FLAGS,
        "FreeBSD 14 and later on x86-64",
        EXPERIMENTAL,
    ),
    Target(
        "freebsd-aarch64",
        "aarch64",
        "freebsd",
        "aarch64-freebsd.14.0",
        "elf",
        "",
        _BSD_FLAGS,
        "FreeBSD 14 and later on ARM64",
        EXPERIMENTAL,
    ),
    Target(
        "netbsd-x86_64",
        "x86_64",
        "netbsd",
        "x86_64-netbsd.10.1",
        "elf",
        "",
        _BSD_FLAGS,
        "NetBSD 10.1 and later on x86-64",
        EXPERIMENTAL,
    ),
    Target(
        "netbsd-aarch64",
        "aarch64",
        "netbsd",
        "aarch64-netbsd.10.1",
        "elf",
        "",
        _BSD_FLAGS,
        "NetBSD 10.1 and later on ARM64",
        EXPERIMENTAL,
    ),
    Target(
        "openbsd-x86_64",
        "x86_64",
        "openbsd",
        "x86_64-openbsd",
        "elf",
        "",
        _BSD_FLAGS,
        "OpenBSD (the release that zig knows) on x86-64",
        EXPERIMENTAL,
    ),
    Target(
        "openbsd-aarch64",
        "aarch64",
        "openbsd",
        "aarch64-openbsd",
        "elf",
        "",
        _BSD_FLAGS,
        "OpenBSD (the release that zig knows) on ARM64",
        EXPERIMENTAL,
    ),
)


# Not compiled but put together from others: formats/universal.py.
UNIVERSAL = Target(
    "universal",
    "any",
    "any",
    "",
    "universal",
    ".exe",
    (),
    "one file for Windows, Linux and macOS, both CPUs (--slices)",
    "as its slices are",
)
DEFAULT_SLICES = (
    "windows-x86_64",  # the file itself
    "linux-x86_64",
    "linux-aarch64",
    "macos-x86_64",
    "macos-aarch64",
)


def find_target(name: str) -> Target:
    """The row with this name, or this machine's for "native"; a UsageError that lists all names
    otherwise."""
    if name == "native":
        return host_target()
    for target in (*TARGETS, UNIVERSAL):
        if target.name == name:
            return target
    known = ", ".join(target.name for target in (*TARGETS, UNIVERSAL))
    raise UsageError(f"no target named {name!r}; the targets are native, {known}")


def find_slices(names: str) -> tuple[Target, ...]:
    """The rows for a list with commas, in the order of TARGETS; "" for the usual ones. Windows on
    x86-64 is always among them, since its executable holds all the rest."""
    asked = [name.strip() for name in names.split(",")] if names else list(DEFAULT_SLICES)
    rows = [find_target(name) for name in [DEFAULT_SLICES[0], *asked]]
    for row in rows:
        if row is UNIVERSAL or (row.windows and row.name != DEFAULT_SLICES[0]):
            raise UsageError(
                f"--slices: {row.name} cannot be part of a universal file; of Windows only "
                f"{DEFAULT_SLICES[0]} can, which ARM64 machines run, too"
            )
    return tuple(row for row in TARGETS if row in rows)


def host_target() -> Target:
    """The row for the machine this runs on."""
    systems = {"linux": "linux", "win32": "windows", "darwin": "macos"}
    machines = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
    # "freebsd14", but "linux".
    system = systems.get(sys.platform, sys.platform.rstrip("0123456789."))
    machine = machines.get(platform.machine().lower(), platform.machine().lower())
    for target in TARGETS:
        if target.system == system and target.arch == machine:
            return target
    raise UsageError(f"no target for this machine ({system}-{machine}); name one with --target")
