"""Icon and version of a program stay when it is packed again, for whatever system.

pefile, Pillow, plistlib and zipfile look at what was built; none of them had a part in building it.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import json
import plistlib
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llamapack
import pytest
import tiny_model
from llamapack import payload
from llamapack.container import Facts, Part, Weights, write_container
from llamapack.targets import find_target
from PIL import Image
from test_build_resources import ICON, bitmap, chunk, icon_of, parse, pieces

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs what it builds for Linux")

Cli = Callable[..., int]
Build = Callable[..., Any]
VERSION = "2.5 beta"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build("llama", "F16", seed=4).save(tmp_path_factory.mktemp("m") / "m.gguf")


@pytest.fixture
def icon(tmp_path: Path) -> Path:
    """Red and blue, of a size that every system takes."""
    image = Image.new("RGBA", (256, 256), (255, 0, 0, 255))
    image.paste((0, 0, 255, 255), (0, 128, 256, 256))
    image.save(tmp_path / "own icon.png")
    return tmp_path / "own icon.png"


@pytest.fixture
def pack(tmp_path: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> Build:
    """pack("chat", MODEL, options...) gives the path of the only output and the warnings."""

    def run(name: str, source: Path, *options: str | Path, command: str = "build") -> Any:
        capsys.readouterr()
        words = [command, source, "-o", tmp_path / name, "--json", *options]
        code = run_cli(*map(str, words))
        captured = capsys.readouterr()
        assert code == 0, captured.err
        (row,) = json.loads(captured.out)["outputs"]
        warned = [line for line in row["warnings"] if "licence" not in line]
        return Path(row["path"]), warned

    return run


def tree(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(f.relative_to(path)): f.read_bytes() for f in files if f.is_file()}


def test_they_stay_for_every_system(model: Path, icon: Path, pack: Build, tmp_path: Path) -> None:
    """What is packed again is to the byte what would have been built at once."""
    looks = ["--icon", icon, "--version-string", VERSION]
    chat, warned = pack("chat", model, *looks)
    assert warned == [f"{option}: none of the outputs shows it; it is kept for packing again"
                      for option in ("--icon", "--version-string")]  # fmt: skip
    with zipfile.ZipFile(chat) as archive:
        assert archive.read("icon.png") == icon.read_bytes()
        assert json.loads(archive.read("manifest.json"))["version"] == VERSION
    for command in ("build", "repack"):
        again, warned = pack("again", chat, command=command)
        assert (again.read_bytes(), warned) == (chat.read_bytes(), [])
    pair, _ = pack("pair", chat, "--split", command="repack")
    whole, _ = pack("whole", pair, command="repack")
    assert whole.read_bytes() == chat.read_bytes()

    windows, _ = pack("w", chat, "--target", "windows-x86_64", command="repack")
    straight, _ = pack("s", model, "--target", "windows-x86_64", *looks)
    assert windows.read_bytes() == straight.read_bytes()
    parsed = parse(windows)
    (table,) = (t for info in parsed.FileInfo[0] for t in getattr(info, "StringTable", []))
    assert table.entries[b"FileVersion"].decode() == VERSION
    image = icon_of(parsed)
    assert image.size == (256, 256)
    assert image.getpixel((100, 60)) == (255, 0, 0, 255)
    assert image.getpixel((100, 190)) == (0, 0, 255, 255)

    mac, desktop = ["--target", "macos-aarch64", "--app"], ["--target", "linux-x86_64", "--desktop"]
    (tmp_path / "other").mkdir()
    app, warned = pack("chat.app", windows, *mac)
    straight, _ = pack("other/chat.app", model, *mac, *looks)
    assert (tree(app), warned) == (tree(straight), [])
    info = plistlib.loads((app / "Contents" / "Info.plist").read_bytes())
    assert info["CFBundleShortVersionString"] == VERSION
    assert info["CFBundleVersion"] == "2.5.0"
    with Image.open(app / "Contents" / "Resources" / "icon.icns", formats=["ICNS"]) as shown:
        assert shown.info["sizes"] == [(256, 256, 1)]
        assert shown.convert("RGBA").getpixel((100, 60)) == (255, 0, 0, 255)
    back, _ = pack("back", app, *desktop, "--name", "")
    assert back.read_bytes() == chat.read_bytes()
    assert (tmp_path / "back.png").read_bytes() == icon.read_bytes()


def test_the_program_minds_neither(model: Path, icon: Path, pack: Build, tmp_path: Path) -> None:
    """Its reader passes over the entry, and its verify covers it."""
    chat, _ = pack("chat", model, "--icon", icon, "--version-string", VERSION)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([chat, *words], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120, check=False)  # fmt: skip

    assert run("verify").stdout == f"ok: every byte of {chat} is as it was built\n"
    assert "musl" in run("licenses").stdout
    assert "target " in run("info").stdout
    assert run("-p", "hello", "-n", "2").returncode == 0
    opened = payload.open_payload(chat)
    payload.verify(opened)
    raw = bytearray(chat.read_bytes())
    raw[opened.entries["icon.png"].data + 99] ^= 1
    chat.write_bytes(raw)
    assert run("verify").stderr.endswith("icon.png was changed\n")
    with pytest.raises(llamapack.errors.LlamapackError, match=r"icon\.png differs from its hash"):
        payload.verify(payload.open_payload(chat))


def test_without_options_nothing_is_kept(model: Path, pack: Build) -> None:
    chat, _ = pack("chat", model)
    opened = payload.open_payload(chat)
    assert "version" not in opened.manifest
    assert not [name for name in opened.entries if "icon" in name and not name.startswith("web/")]
    windows, _ = pack("w", chat, "--target", "windows-x86_64", command="repack")
    assert len(pieces(parse(windows), ICON)) == 7


def test_what_is_given_replaces_what_was_kept(
    model: Path, icon: Path, pack: Build, tmp_path: Path
) -> None:
    chat, _ = pack("chat", model, "--icon", icon, "--version-string", VERSION)
    own = tmp_path / "own.ico"
    Image.new("RGBA", (48, 48), (0, 255, 0, 255)).save(own, format="ICO", sizes=[(48, 48)])
    other, _ = pack("other", chat, "--icon", own, "--version-string", "3")
    with zipfile.ZipFile(other) as archive:
        assert archive.read("icon.ico") == own.read_bytes()
        assert "icon.png" not in archive.namelist()
        assert json.loads(archive.read("manifest.json"))["version"] == "3"
    windows, _ = pack("w", other, "--target", "windows-x86_64", "--icon", "")
    opened = payload.open_payload(windows)
    assert "icon.ico" not in opened.entries and opened.manifest["version"] == "3"
    assert len(pieces(parse(windows), ICON)) == 7  # llamapack's own
    plain, _ = pack("plain", chat, "--icon", "", "--version-string", "")
    without, _ = pack("without", model)
    assert plain.read_bytes() == without.read_bytes()


def test_its_size_is_known_before(
    model: Path, icon: Path, pack: Build, tmp_path: Path, run_cli: Cli
) -> None:
    looks = ["--icon", icon, "--version-string", VERSION]
    chat, _ = pack("chat", model, *looks)
    size = chat.stat().st_size
    fits, _ = pack("fits", model, *looks, "--max-size", str(size))
    assert fits.read_bytes() == chat.read_bytes()
    less, _ = pack("less", chat, "--max-size", str(size - 1))
    assert less.stat().st_size < size
    assert payload.open_payload(less).manifest["quantized"]["type"] == "Q8_0"


def many(image: bytes, count: int) -> bytes:
    """An .ico whose list names one image again and again."""
    row = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(image), 6 + 16 * count)
    return struct.pack("<HHH", 0, 1, count) + row * count + image


PNG = b"\x89PNG\r\n\x1a\n"
HUGE = PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 6, 0, 0, 0))
SIZES = [chunk(b"IHDR", struct.pack(">IIBBBBB", n, n, 8, 0, 0, 0, 0)) for n in (200, 13000)]
TWICE = PNG + b"".join(SIZES) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
WINDOWS, APP = ["--target", "windows-x86_64"], ["--target", "macos-aarch64", "--app"]
HOSTILE: dict[str, tuple[str, bytes, list[str], str]] = {
    "no image": ("icon.png", b"<svg/>", WINDOWS, "neither a PNG nor an ICO"),
    "no image for linux": ("icon.png", b"<svg/>", [], "neither a PNG nor an ICO"),
    "no image for macos": ("icon.ico", b"<svg/>", APP, "neither a PNG nor an ICO"),
    "too large": ("icon.png", bytes((16 << 20) + 1), WINDOWS, "icon.png is too large"),
    "huge picture": ("icon.png", HUGE, WINDOWS, "at most 4096"),
    "huge picture for macos": ("icon.png", HUGE, APP, "at most 4096"),
    "damaged": ("icon.png", PNG + chunk(b"IHDR", bytes(13)), WINDOWS, "damaged PNG"),
    "one image many times": ("icon.ico", many(bitmap(size=1088), 60000), WINDOWS, "overlap"),
    "two headers for macos": (
        "icon.ico",
        many(TWICE, 1),
        APP,
        "13000 x 13000 pixels; at most 4096",
    ),
    "one cut picture many times for macos": ("icon.ico", many(HUGE, 60000), APP, "at most 256"),
    "one image many times for macos": ("icon.ico", many(bitmap(size=1088), 60000), APP, "overlap"),
}


def hostile(path: Path, model: Path, *parts: Part, version: str = "") -> Path:
    """A well-formed container with whatever its maker wanted in it."""
    with path.open("wb") as file:
        weights = Weights(model, 0, model.stat().st_size)
        facts = Facts(version=version)
        write_container(file, b"", find_target("linux-x86_64"), parts, weights, facts)
    payload.verify(payload.open_payload(path))
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_icon_is_one_line(
    case: str, model: Path, tmp_path: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, data, options, message = HOSTILE[case]
    bad = hostile(tmp_path / "bad", model, Part(entry, data, deflate=True))
    capsys.readouterr()
    assert run_cli("build", str(bad), "-o", str(tmp_path / "out"), *options) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {bad}: ") and said.count("\n") == 1
    assert message in said
    assert not list(tmp_path.glob("*out*"))
    if case == "no image":  # as the line says
        assert "build it with --icon to replace it" in said
        assert run_cli("build", str(bad), "-o", str(tmp_path / "out"), "--icon", "") == 0


@pytest.mark.parametrize(
    ("version", "message"), [("1" * 101, "at most 100"), ("1\x1b[2J", "a control character")]
)
def test_a_hostile_version_is_one_line(
    version: str, message: str, model: Path, tmp_path: Path, run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bad = hostile(tmp_path / "bad", model, version=version)
    assert run_cli("repack", str(bad), "-o", str(tmp_path / "out")) != 0
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "its version" in said and message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))
