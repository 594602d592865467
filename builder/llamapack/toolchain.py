"""Compiles the C runtime with `zig cc` from the ziglang package.

One object per source and set of flags. Objects and linked results are kept in a cache under a
name that is the hash of everything that went in: the bytes of the source and of every file it
includes, the flags, the version of zig. So the second build of the same runtime compiles
nothing, and a stale object cannot be used. A cached file begins with the SHA-256 of the rest, so
a damaged one is noticed and made again.

Runtimes for several targets are made in one go: all their objects wait in one queue for as many
compilers as there are cores, while one worker has zig build the C libraries, one after the other,
since zig uses all cores for one by itself.

The cache lies in $LLAMAPACK_CACHE, else in the user's cache directory. zig's own caches lie in
it too: its first link for a target builds that target's libc, which takes about a minute once.

SPDX-License-Identifier: Apache-2.0
"""

import contextlib
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
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import llamapack
from llamapack import prebuilt
from llamapack.errors import LlamapackError
from llamapack.formats import FORMATS
from llamapack.jobs import Jobs
from llamapack.targets import Target

__all__ = [
    "QUANTIZERS",
    "Isa",
    "Progress",
    "Source",
    "Tree",
    "build_runtime",
    "build_runtimes",
    "cache_dir",
    "compile_all",
    "find_tree",
    "link",
    "run_zig",
    "runtime_key",
    "sources_for",
    "zig_version",
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
_POSIX_FLAGS = (
    "-D_GNU_SOURCE",
    "-D_FILE_OFFSET_BITS=64",
    # Nothing unwinds a stack, and the tables are 4 % of an executable. Windows' ABI needs them.
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
)
# Where no time is spent: compiled to be small.
_SELDOM = tuple(f"runtime_c/{name}/" for name in ("platform", "chat", "serve", "cli"))
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
            if name.startswith(_SELDOM):
                extra += ("-Os",)
            if quantizers or not name.startswith(QUANTIZERS):
                found.append(Source(path, name, extra))
    return sorted(found, key=lambda source: source.name)


def _source_folders(tree: Tree) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    yield tree.root / "runtime_c", "runtime_c", ("-O2",)
    yield tree.root / "kernels_x86_arm", "kernels_x86_arm", ("-O3",)
    if tree.generated.is_dir():
        yield tree.generated, "_generated", ("-O2",)


def build_runtime(target: Target, progress: Progress | None = None) -> bytes:
    """The runtime's executable for a target."""
    return build_runtimes([target], progress)[0]


def build_runtimes(targets: Sequence[Target], progress: Progress | None = None) -> list[bytes]:
    """The runtimes' executables, in the targets' order: those that travel in the wheel or were made
    before, if they are of these very sources; the others are compiled, side by side."""
    tree = find_tree()
    ready: dict[Target, bytes] = {}
    # A checkout's sources change from minute to minute: there nothing is prebuilt.
    if not tree.checkout and (zig := prebuilt.zig_version()):
        shipped = _Keys(tree, zig)
        for target in targets:
            found = prebuilt.find(target, shipped.of_runtime(tree, target))
            if found is not None:
                ready[target] = found
    others = [target for target in dict.fromkeys(targets) if target not in ready]
    if others:
        ready |= _cached_or_made(tree, others, progress)
    return [ready[target] for target in targets]


def _cached_or_made(
    tree: Tree, targets: Sequence[Target], progress: Progress | None
) -> dict[Target, bytes]:
    keys = _Keys(tree)
    names = {target: keys.of_runtime(tree, target) for target in targets}
    ready = {t: data for t, name in names.items() if (data := _cache_read(name)) is not None}
    builds = {target: _runtime(tree, target) for target in targets if target not in ready}
    _Maker(tree, keys, list(builds.values()), progress).run()
    for target, build in builds.items():
        assert build.result is not None
        ready[target] = _finished(target, build.result)
        _cache_write(names[target], ready[target])
    return ready


def _runtime(tree: Tree, target: Target) -> "_Build":
    sources = sources_for(tree, target.arch, windows=target.windows)
    return _Build(tuple(sources), runtime_flags(target), target)


def runtime_key(tree: Tree, target: Target) -> str:
    """A hash of everything a target's runtime is made from: sources, flags, zig's version."""
    return _Keys(tree).of_runtime(tree, target)


def _finished(target: Target, linked: bytes) -> bytes:
    """What the linker leaves to do: every Mach-O file gets a signature."""
    finish: Callable[[bytes, str], bytes] | None = getattr(FORMATS[target.format], "finish", None)
    return finish(linked, "llamapack") if finish is not None else linked


def _link_flags(target: Target) -> tuple[str, ...]:
    return (
        "-target",
        target.triple,
        "-s",
        *(() if target.windows else ("-fPIE",)),
        "-Wl,--gc-sections" if target.format != "macho" else "-Wl,-dead_strip",
        *target.link_flags,
    )


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
    build = _Build(tuple(sources), tuple(flags))
    _Maker(tree, _Keys(tree), [build], progress).run()
    for key, source in zip(build.keys, sources, strict=True):
        warnings = _cache_read(_warnings_key(key)) if strict else None
        if warnings:
            first = warnings.decode().splitlines()[0]
            raise LlamapackError(f"compiling {source.name} warns: {first}")
    return [data for data in build.objects if data is not None]


@dataclass(eq=False, slots=True)
class _Build:
    """What is compiled together, and linked if it is for a target."""

    sources: tuple[Source, ...]
    flags: tuple[str, ...]
    target: Target | None = None
    keys: list[str] = field(default_factory=list)
    objects: list[bytes | None] = field(default_factory=list)
    missing: int = 0  # objects
    waits_for: int = 0  # the same and the C library
    result: bytes | None = None


class _Maker:
    """Compiles what the cache does not hold, and links."""

    def __init__(
        self, tree: Tree, keys: "_Keys", builds: Sequence[_Build], progress: Progress | None
    ) -> None:
        self._tree = tree
        self._builds = builds
        self._progress = progress
        self._keys = keys
        self._done = 0
        self._total = 0

    def run(self) -> None:
        for build in self._builds:
            build.keys = [self._keys.of(source, build.flags) for source in build.sources]
            build.objects = [_cache_read(key) for key in build.keys]
            build.missing = sum(data is None for data in build.objects)
            self._total += build.missing + (build.target is not None)
        if self._total == 0:
            return
        with tempfile.TemporaryDirectory(prefix="llamapack-") as work, Jobs() as jobs:
            self._folder, self._jobs = Path(work), jobs
            self._show()
            for build in self._builds:
                self._begin(build)
            jobs.run()

    def _begin(self, build: _Build) -> None:
        build.waits_for = build.missing
        # What takes longest first: building the C library uses all cores by itself at times only.
        if build.target is not None and not _has_libc(build.target):
            build.waits_for += 1
            target = build.target
            self._jobs.submit(lambda: _make_libc(target, self._jobs), lambda: self._came(build))
        for i, data in enumerate(build.objects):
            if data is None:
                self._jobs.submit(partial(self._compile, build, i), partial(self._came, build, 1))
        if build.waits_for == 0:
            self._link(build)

    def _compile(self, build: _Build, i: int) -> None:
        source, key = build.sources[i], build.keys[i]
        out = self._folder / f"{key}.o"
        data, warnings = _compile(self._tree, source, build.flags, out, self._folder, self._jobs)
        if warnings:
            _cache_write(_warnings_key(key), warnings.encode())
        _cache_write(key, data)
        build.objects[i] = data

    def _came(self, build: _Build, objects: int = 0) -> None:
        build.missing -= objects
        build.waits_for -= objects or 1
        self._done += objects
        self._show()
        if build.waits_for == 0:
            self._link(build)

    def _link(self, build: _Build) -> None:
        target = build.target
        if target is None:
            return

        def job() -> None:
            objects = [data for data in build.objects if data is not None]
            name = f"runtime{target.suffix}"
            build.result = link(objects, _link_flags(target), name, jobs=self._jobs)

        def done() -> None:
            self._done += 1
            self._show()

        self._jobs.submit(job, done)

    def _show(self) -> None:
        if not self._progress:
            return
        compiling = [build for build in self._builds if build.missing]
        linking = [build for build in self._builds if build.target and build.result is None]
        what, left = ("compiling", compiling) if compiling else ("linking", linking)
        names = [build.target.name for build in left if build.target]
        if names:
            what += f" for {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        self._progress(what, self._done, self._total)


def _libc_key(target: Target) -> str:
    return _new_key("libc", _link_flags(target)).hexdigest()


def _has_libc(target: Target) -> bool:
    """Whether zig's libraries for this target were built before (they may be gone again: then the
    link builds them)."""
    return _cache_read(_libc_key(target)) is not None


def _make_libc(target: Target, jobs: Jobs) -> None:
    """Links an empty program, so that zig builds its libraries while the runtime is compiled."""
    with tempfile.TemporaryDirectory(prefix="llamapack-") as work:
        (Path(work) / "empty.c").write_text("int main(void) { return 0; }\n")
        arguments = ["cc", "empty.c", *_link_flags(target), "-o", f"empty{target.suffix}"]
        run_zig(arguments, Path(work), f"building the C library of {target.name}", jobs)
    _cache_write(_libc_key(target), b"built")


def _compile(
    tree: Tree, source: Source, flags: Sequence[str], out: Path, work: Path, jobs: Jobs | None
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
    warnings = run_zig(arguments, work, f"compiling {source.name}", jobs).stderr
    data = out.read_bytes()
    out.unlink()
    return data, warnings


def _warnings_key(key: str) -> str:
    return hashlib.sha256(f"warnings of {key}".encode()).hexdigest()


def link(
    objects: Sequence[bytes], flags: Sequence[str], name: str, jobs: Jobs | None = None
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
    with tempfile.TemporaryDirectory(prefix="llamapack-") as work:
        names = []
        for index, data in enumerate(objects):
            # Names of its own making: they may end up in symbol tables and must not vary.
            (Path(work) / f"{index}.o").write_bytes(data)
            names.append(f"{index}.o")
        run_zig(["cc", *names, *flags, "-o", name], Path(work), "linking the runtime", jobs)
        result = (Path(work) / name).read_bytes()
    _cache_write(key, result)
    return result


def run_zig(
    arguments: Sequence[str], work: Path, what: str, jobs: Jobs | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs zig, as one of some jobs; a failure becomes one error with its first line of
    complaint."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZIG_")}
    environment["ZIG_GLOBAL_CACHE_DIR"] = str(cache_dir() / "zig")
    environment["ZIG_LOCAL_CACHE_DIR"] = str(work / "zig-local")
    # __DATE__ and __TIME__, should one ever slip in, are the same in every build.
    environment["SOURCE_DATE_EPOCH"] = "0"
    with contextlib.ExitStack() as alone:
        if jobs is None:
            jobs = alone.enter_context(Jobs(1))
        process = jobs.call([*_zig_command(), *arguments], work, environment)
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
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise LlamapackError("the compiler is missing: pip install ziglang")
    # The program itself: `python -m ziglang` would start a Python for each of hundreds of files.
    program = Path(spec.origin).with_name("zig.exe" if sys.platform == "win32" else "zig")
    return (str(program),) if program.is_file() else (sys.executable, "-m", "ziglang")


@cache
def zig_version() -> str:
    """Of the ziglang package, which is zig's own."""
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        raise LlamapackError("the compiler is missing: pip install ziglang") from None


def _new_key(kind: str, flags: Sequence[str], zig: str = "") -> "hashlib._Hash":
    return hashlib.sha256("\0".join((kind, zig or zig_version(), *flags, "")).encode())


class _Keys:
    """Hashes of all that objects are made from: the bytes of a source and of every file it includes
    by quotes, flags, the compiler's version. Each file is looked at once, for all targets."""

    def __init__(self, tree: Tree, zig: str = "") -> None:
        self._zig = zig or zig_version()
        self._folders = [str(folder) for folder in tree.include_dirs]
        self._kernels = str(tree.root / "kernels_x86_arm")
        self._includes: dict[str, list[str]] = {}
        self._contents: dict[str, bytes] = {}

    def of(self, source: Source, flags: Sequence[str]) -> str:
        digest = _new_key("object", (*flags, *source.flags, source.name), self._zig)
        digest.update(self._content(str(source.path)))
        return digest.hexdigest()

    def of_runtime(self, tree: Tree, target: Target) -> str:
        digest = _new_key("runtime 1", _link_flags(target), self._zig)
        flags = runtime_flags(target)
        for source in sources_for(tree, target.arch, windows=target.windows):
            digest.update(self.of(source, flags).encode())
        return digest.hexdigest()

    def _content(self, path: str) -> bytes:
        """The hashes of a source and of all it includes, directly or not."""
        if path not in self._contents:
            seen: set[str] = set()
            waiting = [path]
            while waiting:
                file = waiting.pop()
                if file not in seen:
                    seen.add(file)
                    waiting += self._included(file)
            files = sorted(map(Path, seen))
            self._contents[path] = b"".join(_file_hash(f, f.stat().st_mtime_ns) for f in files)
        return self._contents[path]

    def _included(self, file: str) -> list[str]:
        if file not in self._includes:
            own = os.path.dirname(file)
            found = self._includes[file] = []
            # Kernel bodies are included by macros too, so all of that folder's headers count.
            if own == self._kernels:
                names = os.listdir(own)
                found += [os.path.join(own, n) for n in names if n.endswith((".h", ".inc", ".def"))]
            for name in _included_names(Path(file), os.stat(file).st_mtime_ns):
                places = (os.path.normpath(os.path.join(f, name)) for f in (own, *self._folders))
                found += filter(None, [next(filter(os.path.isfile, places), None)])
        return self._includes[file]


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
