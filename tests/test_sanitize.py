"""The C tests again, on a build with AddressSanitizer and UndefinedBehaviorSanitizer.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import clang_build
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Tests that reach the runtime through cffi (not through the executable). The whole C test set but
# for real models, whose files are large and whose code paths the small models take, too.
C_TESTS = sorted(
    path.name
    for path in (ROOT / "tests").glob("test_*.py")
    if any(fixture in path.read_text(encoding="utf-8") for fixture in ("lib: Any", "native: Any"))
    and path.name not in ("test_real_models.py", "test_cli.py", "test_sanitize.py")
)

# Minutes under AddressSanitizer and no new code path: the largest vocabulary, the longest runs,
# every level and type, programs of their own (which are not built with it).
LESS_OF = {
    "test_tokenizer.py": "not gemma3 and not linear_in_runs and not hugging_face",
    "test_forward.py": "rows_that or parameters_that or beyond_all or needs_whole or "
    "(any_cut and (gemma2 or qwen2))",
    "test_lookup.py": "not executable and not server and not every_seed",
    "test_scheduler.py": "not every_allocation",
    "test_window.py": "mark or fails or turns or guesses or reserved",
}


def test_there_are_c_tests() -> None:
    assert {"test_gguf.py", "test_base.py", "test_line.py", "test_scheduler.py"} <= set(C_TESTS)


@pytest.mark.clang
@pytest.mark.parametrize("name", C_TESTS)
def test_no_sanitizer_complains(name: str, tool: Callable[[str], str]) -> None:
    clang = tool("clang")
    env = {
        **os.environ,
        "LD_PRELOAD": clang_build.asan_runtime(clang),
        "LLAMAPACK_NATIVE_LIBRARY": str(clang_build.shared_library(clang)),
        # Python itself leaks at exit, and tests refuse allocations on purpose.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{name}",
         "-m", "not (qemu or wine or chromium or clang)", "-k", LESS_OF.get(name, "")],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
