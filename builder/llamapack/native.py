"""The runtime as a shared library of this machine, called through cffi.

For tests and tools: the same sources and flags as the executables, without main.c, with the
quantizers and with every symbol visible. `load_quantizers` is the part that a build with --quant
needs, which compiles in seconds. cffi reads the public headers as the preprocessor leaves them with
LP_CDEF set.

SPDX-License-Identifier: Apache-2.0
"""

import os
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llamapack import toolchain
from llamapack.errors import LlamapackError
from llamapack.targets import host_target

__all__ = ["Native", "load", "load_quantizers"]

_MAIN = "runtime_c/cli/main.c"
_KERNELS = "kernels_x86_arm/"
_WEIGHT_TYPES = "kernels_x86_arm/qtype.c"
_CPU_FEATURES = "runtime_c/platform/cpu_features_posix.c"


@dataclass(frozen=True, slots=True)
class Native:
    ffi: Any  # cffi.FFI
    lib: Any  # the opened library
    path: Path


@cache
def load() -> Native:
    """Builds the library of everything if the cache does not hold it, and opens it."""
    tree = toolchain.find_tree()
    refresh_generated(tree)
    # A library built another way, such as one with sanitizers.
    ready = os.environ.get("LLAMAPACK_NATIVE_LIBRARY")
    path = Path(ready) if ready else _library([s for s in _sources(tree) if s.name != _MAIN])
    return _opened(path, declarations(tree, "runtime_c/llamapack.h"))


@cache
def load_quantizers() -> Native:
    """The quantizers alone (kernels_x86_arm/quantize/quantize.h), as `load`."""
    tree = toolchain.find_tree()
    sources = [
        source
        for source in _sources(tree)
        if source.name.startswith(toolchain.QUANTIZERS) or source.name == _WEIGHT_TYPES
    ]
    return _opened(_library(sources), declarations(tree, f"{toolchain.QUANTIZERS}quantize.h"))


@cache
def load_kernels_without_tiles() -> Native:
    """The kernels alone, with AMX's tiles in plain C: for tests where no processor has them."""
    tree = toolchain.find_tree()
    sources = [s for s in _sources(tree) if s.name.startswith(_KERNELS) or s.name == _CPU_FEATURES]
    return _opened(
        _library(sources, ("-DLP_TILES_IN_C",)), declarations(tree, f"{_KERNELS}kernels.h")
    )


def _opened(path: Path, declared: str) -> Native:
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(declared)
    # Lazily: a sanitizer's own functions are found in the process once it runs.
    return Native(ffi, ffi.dlopen(str(path), ffi.RTLD_LAZY), path)


def refresh_generated(tree: toolchain.Tree) -> None:
    """In a checkout, remakes the generated C files that are missing or stale."""
    if not tree.checkout:
        return
    builder = str(tree.root / "builder")
    if builder not in sys.path:
        sys.path.append(builder)
    import generate

    generate.refresh(tree.root, generate.LIGHT)


def declarations(tree: toolchain.Tree, header: str) -> str:
    """What cffi is given: a header and all it includes, preprocessed."""
    arguments = ["cc", "-E", "-P", "-DLP_CDEF", "-std=c11", "-target", _triple()]
    arguments += [f"-I{folder}" for folder in tree.include_dirs]
    arguments.append(str(tree.root / header))
    with TemporaryDirectory(prefix="llamapack-") as work:
        done = toolchain.run_zig(arguments, Path(work), f"reading {header}")
    return re.sub(r"^#.*$", "", done.stdout, flags=re.MULTILINE)


def _sources(tree: toolchain.Tree) -> list[toolchain.Source]:
    target = host_target()
    return toolchain.sources_for(tree, target.arch, windows=target.windows, quantizers=True)


def _library(sources: list[toolchain.Source], more_flags: tuple[str, ...] = ()) -> Path:
    target = host_target()
    flags = [flag for flag in toolchain.runtime_flags(target) if flag != "-fPIE"]
    flags[flags.index(target.triple)] = _triple()
    flags[flags.index("-fvisibility=hidden")] = "-fvisibility=default"
    objects = toolchain.compile_all(toolchain.find_tree(), sources, [*flags, "-fPIC", *more_flags])
    link_flags = ["-target", _triple(), "-shared", *target.link_flags]
    link_flags = [flag for flag in link_flags if flag not in ("-static", "-pie")]
    if target.system == "linux":
        link_flags += ["-lm", "-lpthread", "-Wl,-z,defs"]
    suffix = {"windows": ".dll", "macos": ".dylib"}.get(target.system, ".so")
    data = toolchain.link(objects, link_flags, f"llamapack{suffix}")
    return _stored(data, suffix)


def _stored(data: bytes, suffix: str) -> Path:
    """A file named by its content, so that a library in use is never overwritten."""
    import hashlib

    name = hashlib.sha256(data).hexdigest()[:32]
    path = toolchain.cache_dir() / "native" / f"llamapack-{name}{suffix}"
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    return path


def _triple() -> str:
    """The libc that this Python uses, since the library is opened into its process."""
    target = host_target()
    if target.system != "linux":
        return target.triple
    libc, _version = platform.libc_ver()
    if libc == "glibc":
        return f"{target.arch}-linux-gnu.2.28"
    if libc in ("", "musl"):
        return f"{target.arch}-linux-musl"
    raise LlamapackError(f"cannot build a library for this machine's C library ({libc})")
