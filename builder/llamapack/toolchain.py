"""Compiles the C runtime with `zig cc` from the ziglang package.

One object per source and set of flags. Objects and linked results are kept in a cache under a
name that is the hash of everything that went in: the bytes of the source and of every file it
includes, the flags, the version of zig. So the second build of the same runtime compiles
nothing, and a stale object cannot be used. A cached file begins with the SHA-256 of the rest, so
a damaged one is noticed and made again.

The cache lies in $LLAMAPACK_CACHE, else in the user's cache directory. zig's own caches lie in
it too: its first link for a target builds that target's libc, which takes about a minute once.

SPDX-License-Identifier: Apache-2.0
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llamapack
from llamapack.errors import LlamapackError
from llamapack.targets import Target

__all__ = [
    "QUANTIZERS",
    "Isa",
    "Progress",
    "Source",
    "Tree",
    "build_runtime",
    "cache_dir",
    "compile_all",
    "find_tree",
    "link",
    "run_zig",
    "sources_for",
]

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done and how much there is in all."""

QUANTIZERS = "kernels_x86_arm/quantize/"
"""Sources that only libraries for the builder hold (native.py)."""

_PACKAGE = Path(__file__).resolve().parent

_COMMON_FLAGS = (
    "-std=c11",
    "-mcpu=baseline",
    # One rounding per operation as written: results must not depend on what a compiler fuses.
    "-ffp-contract=off",
    "-fno-math-errno",
    # zig switches UBSan on by itself; a release must not carry its traps.
    "-fno-sanitize=undefined",
    "-fstack-protector-strong",
    "-fno-strict-aliasing",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wsign-conversion",
    "-g0",
)
_POSIX_FLAGS = ("-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64")
_ISA_ROW = re.compile(
    r'^\s*LP_ISA\(\s*(\w+)\s*,\s*(\w+)\s*,\s*"([^"]+)"\s*,\s*"([^"]*)"\s*,\s*"([^"]*)"\s*\)',
    re.MULTILINE,
)
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Isa:
    """One row of kernels_x86_arm/isa.def."""

    name: str
    arch: str
    file: str
    flags: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Tree:
    """Where the C sources are: a checkout, or the copies inside an installed wheel."""

    root: Path  # holds runtime_c and kernels_x86_arm
    generated: Path
    checkout: bool

    @property
    def include_dirs(self) -> tuple[Path, Path]:
        return (self.root / "runtime_c", self.root / "kernels_x86_arm")


@dataclass(frozen=True, slots=True)
class Source:
    path: Path
    name: str  # relative, with slashes: the same on every machine
    flags: tuple[str, ...]


def find_tree() -> Tree:
    """The checkout this package runs from, else the wheel's own copy of the sources."""
    root = _PACKAGE.parents[1]
    if (root / "runtime_c").is_dir() and (root / "kernels_x86_arm").is_dir():
        return Tree(root, _PACKAGE / "_generated", checkout=True)
    if (_PACKAGE / "_source" / "runtime_c").is_dir():
        return Tree(_PACKAGE / "_source", _PACKAGE / "_generated", checkout=False)
    raise LlamapackError(f"the runtime's C sources are missing beside {_PACKAGE}; reinstall")


def cache_dir() -> Path:
    """$LLAMAPACK_CACHE, else `llamapack` in the platform's cache directory."""
    own = os.environ.get("LLAMAPACK_CACHE")
    if own:
        return Path(own).absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    return base / "llamapack"


def read_isas(tree: Tree) -> list[Isa]:
    """The rows of isa.def, in its order; none while the file does not exist."""
    path = tree.root / "kernels_x86_arm" / "isa.def"
    if not path.is_file():
        return []
    rows = _ISA_ROW.findall(path.read_text(encoding="utf-8"))
    return [Isa(name, arch, file, tuple(f.split()), text) for name, arch, file, f, text in rows]


def sources_for(tree: Tree, arch: str, *, windows: bool, quantizers: bool = False) -> list[Source]:
    """Every C file that belongs into a runtime for this CPU and system, sorted by name.

    `x_posix.c` and `x_windows.c` are the two bodies of one header. A `k_*.c` of the kernels
    belongs to the CPU that isa.def names, and is compiled with that row's flags. What lies in
    QUANTIZERS is for the builder: no executable needs it."""
    other_system = "_posix.c" if windows else "_windows.c"
    isas = {isa.file: isa for isa in read_isas(tree)}
    found: list[Source] = []
    for folder, label, flags in _source_folders(tree):
        for path in sorted(folder.rglob("*.c")):
            if path.name.endswith(other_system):
                continue
            extra = flags
            isa = isas.get(path.name) if label == "kernels_x86_arm" else None
            if isa is not None:
                if isa.arch != arch:
                    continue
                extra = flags + isa.flags
            elif label == "kernels_x86_arm" and path.name.startswith("k_"):
                continue
            name = f"{label}/{path.relative_to(folder).as_posix()}"
            if quantizers or not name.startswith(QUANTIZERS):
                found.append(Source(path, name, extra))
    return sorted(found, key=lambda source: source.name)


def _source_folders(tree: Tree) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    yield tree.root / "runtime_c", "runtime_c", ("-O2",)
    yield tree.root / "kernels_x86_arm", "kernels_x86_arm", ("-O3",)
    if tree.generated.is_dir():
        yield tree.generated, "_generated", ("-O2",)


def build_runtime(target: Target, progress: Progress | None = None) -> bytes:
    """The runtime's executable for a target, from the cache when nothing changed."""
    tree = find_tree()
    sources = sources_for(tree, target.arch, windows=target.windows)
    objects = compile_all(tree, sources, runtime_flags(target), progress)
    link_flags = (
        "-target",
        target.triple,
        "-s",
        *(() if target.windows else ("-fPIE",)),
        "-Wl,--gc-sections" if target.format != "macho" else "-Wl,-dead_strip",
        *target.link_flags,
    )
    return link(objects, link_flags, f"runtime{target.suffix}", progress)


def runtime_flags(target: Target) -> tuple[str, ...]:
    """Compiler flags shared by every source of a target's runtime."""
    return (
        "-target",
        target.triple,
        *_COMMON_FLAGS,
        "-fvisibility=hidden",
        *(() if target.windows else ("-fPIE", *_POSIX_FLAGS)),
        f'-DLP_VERSION="{llamapack.__version__}"',
    )


def compile_all(
    tree: Tree,
    sources: Sequence[Source],
    flags: Sequence[str],
    progress: Progress | None = None,
    *,
    strict: bool = False,
) -> list[bytes]:
    """Objects for the sources, in their order; compiles what the cache does not hold.

    strict: a warning is an error, also one from an earlier run, since the cache keeps them."""
    keys = [_object_key(tree, source, flags) for source in sources]
    objects = [_cache_read(key) for key in keys]
    missing = [i for i, data in enumerate(objects) if data is None]
    if missing:
        with tempfile.TemporaryDirectory(prefix="llamapack-") as work:
            _compile_missing(tree, sources, flags, keys, objects, missing, Path(work), progress)
    for key, source in zip(keys, sources, strict=True):
        warnings = _cache_read(_warnings_key(key)) if strict else None
        if warnings:
            first = warnings.decode().splitlines()[0]
            raise LlamapackError(f"compiling {source.name} warns: {first}")
    return [data for data in objects if data is not None]


def _compile_missing(
    tree: Tree,
    sources: Sequence[Source],
    flags: Sequence[str],
    keys: Sequence[str],
    objects: list[bytes | None],
    missing: Sequence[int],
    work: Path,
    progress: Progress | None,
) -> None:
    done = 0
    stop = threading.Event()
    lock = threading.Lock()

    def compile_one(index: int) -> None:
        nonlocal done
        if stop.is_set():
            return
        try:
            data, warnings = _compile(tree, sources[index], flags, work / f"{index}.o", work)
        except BaseException:
            stop.set()
            raise
        if warnings:
            _cache_write(_warnings_key(keys[index]), warnings.encode())
        _cache_write(keys[index], data)
        with lock:
            objects[index] = data
            done += 1
            if progress:
                progress("compiling", done, len(missing))

    if progress:
        progress("compiling", 0, len(missing))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        futures = [pool.submit(compile_one, index) for index in missing]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise


def _compile(
    tree: Tree, source: Source, flags: Sequence[str], out: Path, work: Path
) -> tuple[bytes, str]:
    """The object, and what the compiler had to say."""
    arguments = ["cc", *flags, *source.flags]
    for folder in tree.include_dirs:
        arguments.append(f"-I{folder}")
    # No path of this machine may get into the output (__FILE__, debug information).
    arguments.append(f"-ffile-prefix-map={source.path.parent}=.")
    for folder in (tree.generated, tree.root):
        arguments.append(f"-ffile-prefix-map={folder}=.")
    arguments += ["-c", str(source.path), "-o", str(out)]
    warnings = run_zig(arguments, work, f"compiling {source.name}").stderr
    data = out.read_bytes()
    out.unlink()
    return data, warnings


def _warnings_key(key: str) -> str:
    return hashlib.sha256(f"warnings of {key}".encode()).hexdigest()


def link(
    objects: Sequence[bytes], flags: Sequence[str], name: str, progress: Progress | None = None
) -> bytes:
    """Links objects in a directory of its own and returns the file's bytes."""
    digest = _new_key("link", flags)
    digest.update(name.encode())
    for data in objects:
        digest.update(hashlib.sha256(data).digest())
    key = digest.hexdigest()
    cached = _cache_read(key)
    if cached is not None:
        return cached
    if progress:
        progress("linking (the first time for a target also builds its C library)", 0, 1)
    with tempfile.TemporaryDirectory(prefix="llamapack-") as work:
        names = []
        for index, data in enumerate(objects):
            # Names of its own making: they may end up in symbol tables and must not vary.
            (Path(work) / f"{index}.o").write_bytes(data)
            names.append(f"{index}.o")
        run_zig(["cc", *names, *flags, "-o", name], Path(work), "linking the runtime")
        result = (Path(work) / name).read_bytes()
    _cache_write(key, result)
    if progress:
        progress("linking", 1, 1)
    return result


def run_zig(arguments: Sequence[str], work: Path, what: str) -> subprocess.CompletedProcess[str]:
    """Runs zig; a failure becomes one error with its first line of complaint."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZIG_")}
    environment["ZIG_GLOBAL_CACHE_DIR"] = str(cache_dir() / "zig")
    environment["ZIG_LOCAL_CACHE_DIR"] = str(work / "zig-local")
    # __DATE__ and __TIME__, should one ever slip in, are the same in every build.
    environment["SOURCE_DATE_EPOCH"] = "0"
    process = subprocess.run(
        [*_zig_command(), *arguments],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if process.returncode != 0:
        output = process.stderr.strip() or process.stdout.strip() or "no message"
        lines = output.splitlines()
        first = next((line for line in lines if "error:" in line), lines[0])
        raise LlamapackError(f"{what} failed: {first.strip()}", details="\n".join(lines[:40]))
    if process.stderr and os.environ.get("LLAMAPACK_VERBOSE"):
        sys.stderr.write(process.stderr)
    return process


@cache
def _zig_command() -> tuple[str, ...]:
    if importlib.util.find_spec("ziglang") is None:
        raise LlamapackError("the compiler is missing: pip install ziglang")
    return (sys.executable, "-m", "ziglang")


@cache
def _zig_version() -> str:
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        raise LlamapackError("the compiler is missing: pip install ziglang") from None


def _new_key(kind: str, flags: Sequence[str]) -> "hashlib._Hash":
    return hashlib.sha256("\0".join((kind, _zig_version(), *flags, "")).encode())


def _object_key(tree: Tree, source: Source, flags: Sequence[str]) -> str:
    digest = _new_key("object", (*flags, *source.flags, source.name))
    for path in sorted(_read_by(tree, source.path)):
        digest.update(_file_hash(path, path.stat().st_mtime_ns))
    return digest.hexdigest()


def _read_by(tree: Tree, path: Path) -> set[Path]:
    """The file and everything it includes by quotes, directly or not."""
    seen: set[Path] = set()
    waiting = [path]
    kernels = tree.root / "kernels_x86_arm"
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        # Kernel bodies are included by macros too, so all of that folder's headers count.
        if file.parent == kernels:
            waiting += [p for p in kernels.iterdir() if p.suffix in (".h", ".inc", ".def")]
        for name in _included_names(file, file.stat().st_mtime_ns):
            for folder in (file.parent, *tree.include_dirs):
                candidate = Path(os.path.normpath(folder / name))
                if candidate.is_file():
                    waiting.append(candidate)
                    break
    return seen


@cache
def _file_hash(path: Path, _mtime: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@cache
def _included_names(path: Path, _mtime: int) -> tuple[str, ...]:
    return tuple(name.decode() for name in _INCLUDE.findall(path.read_bytes()))


def _cache_path(key: str) -> Path:
    return cache_dir() / "objects" / key[:2] / key[2:]


def _cache_read(key: str) -> bytes | None:
    try:
        data = _cache_path(key).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    return data[32:]


def _cache_write(key: str, data: bytes) -> None:
    """Whole or not at all: a reader never sees half a file. A full disk is no reason to fail."""
    path = _cache_path(key)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(data).digest() + data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
