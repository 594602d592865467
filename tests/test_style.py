"""House rules that a machine can check: budgets, headers, where the operating system may show.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
C_FILES = sorted(
    path
    for folder in ("runtime_c", "kernels_x86_arm", "tests/fuzz")
    for path in (ROOT / folder).rglob("*.[ch]")
)
SOURCES = sorted(
    {
        *C_FILES,
        *(ROOT / "builder").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(p for p in (ROOT / "templates").rglob("*.ts*") if "node_modules" not in p.parts),
        *(ROOT / "kernels_x86_arm").glob("*.inc"),
    }
)
SOURCES = [p for p in SOURCES if not {"_generated", "_source", "node_modules"} & set(p.parts)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_only(text: str) -> str:
    """The text without comments and the contents of strings."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
    return re.sub(r"//[^\n]*", " ", text)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_keeps_its_budget_and_names_its_licence(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 800, "more than 800 lines: does it still have one purpose?"
    if path.name not in ("py.typed", "__init__.py"):
        assert "SPDX-License-Identifier: Apache-2.0" in text[:8000]


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_a_c_file_opens_with_what_it_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    assert first.startswith(f"/* {path.name} - "), first


OS_MACRO = re.compile(r"\b(_WIN32|_WIN64|__linux__|__APPLE__|__FreeBSD__|__NetBSD__|__OpenBSD__)\b")


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_the_operating_system_shows_in_platform_only(path: Path) -> None:
    if name_of(path).startswith("runtime_c/platform/"):
        return
    assert not OS_MACRO.search(code_only(path.read_text(encoding="utf-8")))


# Lenient or unbounded; base/text.h has strict ones. strtod stands behind a grammar check there.
FORBIDDEN = re.compile(
    r"\b(atoi|atol|atof|strtol|strtoul|strtoull|strtoll|strtod|strtof|sscanf|scanf|gets|strcpy"
    r"|strcat|sprintf|vsprintf|alloca|setlocale)\s*\("
)
MEMORY = re.compile(r"\b(malloc|calloc|realloc|free|aligned_alloc)\s*\(")


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_no_careless_calls(path: Path) -> None:
    name = name_of(path)
    text = code_only(path.read_text(encoding="utf-8"))
    found = {m.group(1) for m in FORBIDDEN.finditer(text)}
    if name == "runtime_c/base/text.c":
        found.discard("strtod")
    assert not found
    if (
        name.startswith("runtime_c/")
        and "/platform/" not in name
        and name != "runtime_c/base/memory.c"
    ):
        assert not MEMORY.search(text), "memory goes through base/memory.h"


def test_the_tree_is_the_one_agreed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:  # an unpacked archive: look at the folders themselves
        folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
        folders -= {"build", "dist"}
    else:
        folders = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    allowed = {"builder", "runtime_c", "kernels_x86_arm", "templates", "tests", ".ci"}
    assert folders - {".git", ".venv", ".pytest_cache"} <= allowed


def test_readme_and_ci_use_the_same_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)
    test_commands = [line for block in blocks for line in block.splitlines() if "pytest" in line]
    assert len(test_commands) == 1, "one command of the README runs the tests"
    assert test_commands[0] in ci or "README.md" in ci
