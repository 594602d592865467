"""The build backend: setuptools, with the generated files made first.

Before a wheel or a development install the generators of builder/generate run; a wheel also gets
copies of the C sources and templates, so that `llamapack build` works without a checkout. A
development install reads the checkout in place. What is up to date is left alone.

A wheel for release also carries runtimes, which builds that use it then need not compile:

    pip wheel . --no-deps -w dist -C prebuilt=main       every target but the experimental ones
    pip wheel . --no-deps -w dist -C prebuilt=linux-x86_64,windows-x86_64

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
PACKAGE = ROOT / "builder" / "llamapack"
ZIG = "ziglang==0.17.1"  # as in pyproject.toml's dependencies
COPIED = ("runtime_c", "kernels_x86_arm", "templates/launch", "LICENSE")

Settings = dict[str, str | list[str] | None] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    needed = build_meta.get_requires_for_build_wheel(config_settings)
    return [*needed, ZIG] if _prebuilt_names(config_settings) else needed


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _generate()
    copies, runtimes = PACKAGE / "_source", PACKAGE / "_prebuilt"
    for made in (copies, runtimes):
        shutil.rmtree(made, ignore_errors=True)
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
        _prebuild(runtimes, _prebuilt_names(config_settings))
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    finally:
        for made in (copies, runtimes):
            shutil.rmtree(made, ignore_errors=True)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    _generate()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _prebuilt_names(settings: Settings) -> list[str]:
    given = (settings or {}).get("prebuilt") or ""
    texts = [given] if isinstance(given, str) else given
    return [name for text in texts for name in text.split(",") if name]


def _prebuild(folder: Path, names: list[str]) -> None:
    if not names:
        return
    from llamapack import licenses, prebuilt, toolchain
    from llamapack.targets import TARGETS, find_target

    targets = [find_target(name) for name in names if name != "main"]
    if "main" in names:
        targets = [target for target in TARGETS if target in targets or not target.experimental]
    print(f"llamapack: compiling for {', '.join(target.name for target in targets)}", flush=True)
    tree, zig = toolchain.find_tree(), toolchain.zig_version()
    made = zip(targets, toolchain.build_runtimes(targets), strict=True)
    runtimes = {t.name: (toolchain.runtime_key(tree, t), data) for t, data in made}
    files = {f"{d}/{f}" for t in targets for d, f in licenses.LIBRARIES.get(t.system, ())}
    texts = {name: licenses.library_license(name).decode() for name in sorted(files)}
    prebuilt.write(folder, zig, runtimes, texts)


def _generate() -> None:
    sys.path.insert(0, str(ROOT / "builder"))
    import generate

    made = generate.refresh(ROOT)
    print(f"llamapack: generated {', '.join(made) or 'nothing, all up to date'}")
