"""What CI runs is what the README tells its readers to run.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_readme_has_the_test_command_of_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    command = re.search(r'^TEST_COMMAND="(.*)"$', script, re.MULTILINE)
    assert command is not None
    # A long command may be broken into lines for reading.
    readme = re.sub(r"\\\n\s*", "", (ROOT / "README.md").read_text())
    assert command[1] in re.sub(r"[ \t]+", " ", readme)


def test_versions_agree() -> None:
    import tomllib

    import llamapack

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == llamapack.__version__
    assert f"ziglang=={ziglang_version()}" in project["dependencies"]


def ziglang_version() -> str:
    from importlib.metadata import version

    return version("ziglang")


def test_generators_run_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "builder")])
    import generate

    source = tmp_path / "builder" / "generate"
    inputs = tmp_path / "templates" / "chat"
    source.mkdir(parents=True)
    inputs.mkdir(parents=True)
    (inputs / "a.jinja").write_text("one")
    (source / "chat_templates.py").write_text(
        "def generate(root, out):\n"
        "    text = (root / 'templates/chat/a.jinja').read_text()\n"
        "    (out / 'made.c').write_text(text)\n"
    )
    made = tmp_path / "builder" / "llamapack" / "_generated" / "made.c"
    assert generate.refresh(tmp_path) == ["chat_templates"]
    assert generate.refresh(tmp_path) == []
    (inputs / "a.jinja").write_text("two")
    assert generate.refresh(tmp_path) == ["chat_templates"]
    assert made.read_text() == "two"
    (source / "chat_templates.py").write_text("def generate(root, out):\n    1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        generate.refresh(tmp_path)
    # A failed run is not taken for a good one.
    with pytest.raises(ZeroDivisionError):
        generate.refresh(tmp_path)
