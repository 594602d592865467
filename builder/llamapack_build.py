"""The build backend: setuptools, with the generated files made first.

Before a wheel or a development install the generators of builder/generate run; a wheel also gets
copies of the C sources and templates, so that `llamapack build` works without a checkout. A
development install reads the checkout in place. What is up to date is left alone.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("runtime_c", "kernels_x86_arm", "templates/launch", "LICENSE")

Settings = dict[str, str | list[str] | None] | None


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _generate()
    copies = ROOT / "builder" / "llamapack" / "_source"
    shutil.rmtree(copies, ignore_errors=True)
    # setuptools would carry files of an earlier build along.
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    for name in COPIED:
        source, copy = ROOT / name, copies / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy)
        elif source.is_file():
            shutil.copy(source, copy)
    try:
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    finally:
        shutil.rmtree(copies, ignore_errors=True)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _generate()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _generate() -> None:
    sys.path.insert(0, str(ROOT / "builder"))
    import generate

    made = generate.refresh(ROOT)
    print(f"llamapack: generated {', '.join(made) or 'nothing, all up to date'}")
