"""What desktops show of a program: macOS applications, .desktop files of Linux.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import io
import json
import os
import plistlib
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import lief
import pytest
from llamapack import icons, launchers, payload, plan, toolchain
from llamapack.errors import LlamapackError
from llamapack.targets import find_target
from PIL import Image
from test_build_targets import check_mach_o

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "builder")}


def llamapack(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "llamapack", *map(str, words)],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def png(size: int) -> bytes:
    rows = b"".join(b"\0" + b"\x14\x80\x6b\xff" * size for _ in range(size))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)),
             (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def ico(*images: bytes) -> bytes:
    offset, rows = 6 + 16 * len(images), b""
    for image in images:
        rows += struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(image), offset)
        offset += len(image)
    return struct.pack("<HHH", 0, 1, len(images)) + rows + b"".join(images)


@pytest.fixture(scope="module")
def app(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("application")
    (folder / "icon.png").write_bytes(png(256))
    llamapack("build", smollm2, "-o", folder / "Größe 1", "--target", "macos-aarch64", "--app",
              "--icon", folder / "icon.png", "--name", "Test & <Chat>")  # fmt: skip
    return folder / "Größe 1.app"


def test_application_is_as_macos_wants_it(app: Path, smollm2: Path) -> None:
    contents = app / "Contents"
    info = plistlib.loads((contents / "Info.plist").read_bytes())
    assert info["CFBundleExecutable"] == "Größe 1"
    assert info["CFBundleName"] == info["CFBundleDisplayName"] == "Test & <Chat>"
    assert info["CFBundlePackageType"] == "APPL"
    assert set(info["CFBundleIdentifier"]) <= set("abcdefghijklmnopqrstuvwxyz.-0123456789Gre")
    assert info["LSMinimumSystemVersion"] == "11.0"
    program = contents / "MacOS" / "Größe 1"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    data = program.read_bytes()
    parsed = lief.parse(list(data))
    assert isinstance(parsed, lief.MachO.Binary)
    check_mach_o(data, parsed)  # its signature is the end of the file, as codesign wants it
    with zipfile.ZipFile(contents / "Resources" / "model") as archive:
        assert archive.read("model.gguf") == smollm2.read_bytes()
    icon = (contents / "Resources" / "icon.icns").read_bytes()
    assert icon[:4] == b"icns"
    assert struct.unpack(">I", icon[4:8])[0] == len(icon)
    assert icon[8:12] == b"ic08"
    assert icon[16:] == png(256)
    assert info["CFBundleIconFile"] == "icon"
    found = {
        path.relative_to(contents).as_posix() for path in contents.rglob("*") if path.is_file()
    }
    assert found == {"Info.plist", "MacOS/Größe 1", "Resources/model", "Resources/icon.icns"}


def test_without_an_icon_they_have_llamapack_s(tmp_path: Path) -> None:
    """The same bubble as Windows programs have, in what the desktops take."""
    llamapack("build", "--no-model", "-o", tmp_path / "chat", "--target", "macos-x86_64",
              "--target", "linux-x86_64", "--app", "--desktop")  # fmt: skip
    contents = tmp_path / "chat-macos-x86_64.app" / "Contents"
    info = plistlib.loads((contents / "Info.plist").read_bytes())
    assert info["CFBundleIconFile"] == "icon"
    with Image.open(contents / "Resources" / "icon.icns", formats=["ICNS"]) as icon:
        assert {size[0] for size in icon.info["sizes"]} == {128, 256, 512}
        shown = [icon.icns.getimage(size).convert("RGBA") for size in icon.info["sizes"]]
    with Image.open(tmp_path / "chat-linux-x86_64.png", formats=["PNG"]) as picture:
        assert picture.size == (512, 512)
        shown.append(picture.convert("RGBA"))
    for image in shown:
        side = image.size[0]
        assert image.getpixel((0, 0))[3] == 0
        assert image.getpixel((side * 5 // 32, side * 14 // 32)) == (0x14, 0x80, 0x6B, 255)
    entry = (tmp_path / "chat-linux-x86_64.desktop").read_text()
    assert "\nIcon=chat-linux-x86_64\n" in entry
    # What nobody gave is not kept.
    with zipfile.ZipFile(contents / "Resources" / "model") as archive:
        assert not [name for name in archive.namelist() if name.startswith("icon")]


def test_commands_take_an_application(app: Path, smollm2: Path, tmp_path: Path) -> None:
    assert "ok" in llamapack("verify", app).stdout
    facts = json.loads(llamapack("inspect", app, "--json").stdout)
    assert (facts["target"], facts["model"]["architecture"]) == ("macos-aarch64", "llama")
    llamapack("extract", app, "-d", tmp_path)
    assert (tmp_path / "model.gguf").read_bytes() == smollm2.read_bytes()
    # As a model it can be packed again, but not over itself.
    llamapack("build", app, "-o", tmp_path / "again", "--target", "macos-aarch64")
    with zipfile.ZipFile(tmp_path / "again") as archive:
        assert archive.read("model.gguf") == smollm2.read_bytes()
    done = llamapack("build", app, "-o", app, "--target", "macos-aarch64", "--app", code=1)
    assert "is the model itself" in done.stderr


def test_every_byte_of_an_application_is_verified(app: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.app"
    shutil.copytree(app, copy)
    program = copy / "Contents" / "MacOS" / "Größe 1"
    good = program.read_bytes()
    _, size = launchers.macho.mutable_ranges(good)[-1]
    signed = launchers.macho.sign(good, "signed.by.somebody.with.a.long.name" * 9)
    assert len(signed) > len(good)
    program.write_bytes(signed)  # another signature changes nothing that counts
    payload.verify(payload.open_payload(copy))
    for at in (0, 5000, len(good) - size - 1):
        bad = bytearray(good)
        bad[at] ^= 1
        program.write_bytes(bad)
        with pytest.raises(LlamapackError, match="the program differs from its hash"):
            payload.verify(payload.open_payload(copy))
    program.unlink()
    with pytest.raises(LlamapackError, match="cannot read"):
        payload.verify(payload.open_payload(copy))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="this machine is no x86-64")
def test_the_program_verifies_its_application(
    app: Path, packed_smollm2: Path, tmp_path: Path
) -> None:
    """As its own `verify` does it, here that of this machine's runtime with the archive's path."""
    copy = tmp_path / "copy.app"
    shutil.copytree(app, copy)
    program = copy / "Contents" / "MacOS" / "Größe 1"
    archive = copy / "Contents" / "Resources" / "model"

    def verify() -> tuple[int, str]:
        done = subprocess.run([packed_smollm2, "verify", archive], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    whole = f"every byte of {archive} and of its program, less its signature, is as it was built"
    assert verify() == (0, f"ok: {whole}\n")
    good = program.read_bytes()
    _, size = launchers.macho.mutable_ranges(good)[-1]
    longer = launchers.macho.sign(good, "signed.by.somebody.with.a.long.name" * 9)
    shorter = launchers.macho.sign(good, "s")
    assert len(shorter) < len(good) < len(longer)
    for signed in (longer, shorter):
        program.write_bytes(signed)
        assert verify()[0] == 0
    for at in (0, 5000, len(good) - size - 1):
        bad = bytearray(good)
        bad[at] ^= 1
        program.write_bytes(bad)
        code, said = verify()
        assert code == 1 and said.endswith("/../MacOS/Größe 1: the program was changed\n")
    program.write_bytes(good[:5000])
    assert verify()[1].endswith("the program was changed\n")
    program.unlink()
    code, said = verify()
    assert code == 1 and "Größe 1: No such file" in said and said.count("\n") == 1


def test_application_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.app"
    runtime = toolchain.build_runtime(find_target("macos-x86_64"))

    def write(text: bytes) -> None:
        with launchers.application(path, runtime, find_target("macos-x86_64"), "X", {}) as file:
            file.write(text)
            if text == b"bad":
                raise LlamapackError("stop")

    def model() -> bytes:
        assert [entry.name for entry in tmp_path.iterdir()] == ["x.app"]
        return (path / "Contents" / "Resources" / "model").read_bytes()

    write(b"one")
    assert model() == b"one"
    write(b"two")
    assert model() == b"two"
    with pytest.raises(LlamapackError, match="stop"):
        write(b"bad")
    assert model() == b"two"
    # What a killed build left is removed, and put back where it was killed between two renames.
    (tmp_path / ".x.app.lp-tmp-0" / "Contents").mkdir(parents=True)
    path.rename(tmp_path / ".x.app.lp-tmp-1-old")
    with pytest.raises(LlamapackError, match="stop"):
        write(b"bad")
    assert model() == b"two"

    rename, calls = os.rename, []

    def second_fails(old: Any, new: Any) -> None:
        calls.append(new)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(old, new)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(LlamapackError, match="No space"):
        write(b"three")
    assert model() == b"two"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "linux-x86_64", "--app"], "--app is for macOS"),
        (["--target", "macos-x86_64", "--desktop"], "--desktop is for Linux"),
        (
            ["--target", "macos-x86_64", "--app", "--icon", "missing.png"],
            "no such file: missing.png",
        ),
        (["--target", "macos-x86_64", "--app", "--icon", "tiny.png"], "at least 16"),
        (["--target", "macos-x86_64", "--app", "--icon", "text.ico"], "a damaged ICO"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.png").write_bytes(png(15))
    (tmp_path / "text.ico").write_bytes(b"\0\0\1\0\xff\xff")
    done = llamapack("build", "--no-model", "-o", "out", *words, code=2 if "is for" in said else 1)
    assert said in done.stderr
    assert sorted(os.listdir()) == ["text.ico", "tiny.png"]


def test_names_of_outputs(tmp_path: Path) -> None:
    def names(out: str, *targets: str) -> list[str]:
        return [o.path.name for o in plan.plan_outputs(tmp_path / out, targets, app=True)]

    assert names("chat", "macos-x86_64") == ["chat.app"]
    assert names("chat.app", "macos-x86_64") == ["chat.app"]
    assert names("chat", "macos-x86_64", "linux-x86_64", "windows-x86_64") == [
        "chat-macos-x86_64.app", "chat-linux-x86_64", "chat-windows-x86_64.exe"
    ]  # fmt: skip


def test_only_an_application_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.app").mkdir()
    (tmp_path / "x.app" / "mine").touch()
    words = ["build", "--no-model", "-o", tmp_path / "x.app", "--target", "macos-x86_64", "--app"]
    assert "is no application" in llamapack(*words, code=1).stderr
    assert (tmp_path / "x.app" / "mine").exists()


def test_pictures_of_an_icon_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ico"
    path.write_bytes(ico(png(16), png(256), b"BM" + bytes(60), png(512)))
    assert icons.pictures(icons.read_icon(path)) == {256: png(256), 512: png(512)}
    # Each size once, whatever a list says that names one image 60 000 times.
    many = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png(256)), 6 + 16 * 60000) * 60000
    path.write_bytes(struct.pack("<HHH", 0, 1, 60000) + many + png(256))
    assert icons.pictures(icons.read_icon(path)) == {256: png(256)}


@pytest.mark.parametrize(
    ("size", "form", "expected"),
    [((300, 300), "PNG", {128, 256}), ((600, 300), "PNG", {128, 256, 512}), ((64, 64), "PNG", {128}),
     ((256, 256), "ICO", {128, 256})],
)  # fmt: skip
def test_a_picture_of_another_size_is_scaled(
    size: tuple[int, int], form: str, expected: set[int], tmp_path: Path
) -> None:
    """Also the bitmaps of an .ico. What is no square stays undistorted."""
    image = Image.new("RGBA", size, (255, 0, 0, 255))
    image.paste((0, 0, 255, 255), (0, size[1] // 2, size[0], size[1]))
    options = {"sizes": [(32, 32), size], "bitmap_format": "bmp"} if form == "ICO" else {}
    image.save(tmp_path / "own", format=form, **options)
    found = icons.pictures(icons.read_icon(tmp_path / "own"))
    assert set(found) == expected
    for side, data in found.items():
        with Image.open(io.BytesIO(data), formats=["PNG"]) as shown:
            assert (shown.size, shown.mode) == ((side, side), "RGBA")
            used = side * size[1] // size[0]
            above, below = side // 2 - used // 4, side // 2 + used // 4
            assert shown.getpixel((side // 4, above)) == pytest.approx((255, 0, 0, 255), abs=9)
            assert shown.getpixel((side // 4, below)) == pytest.approx((0, 0, 255, 255), abs=9)
            if used < side:
                assert shown.getpixel((side // 4, 0))[3] == 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="this machine is no x86-64")
def test_program_finds_the_archive_of_its_application(tmp_path: Path, smollm2: Path) -> None:
    """The lookup is the same on every system, so this machine's runtime shows it."""
    llamapack("build", smollm2, "-o", tmp_path / "whole", "--target", "linux-x86_64", "--name", "A")
    runtime = toolchain.build_runtime(find_target("linux-x86_64"))
    bundle = tmp_path / "My chat.app" / "Contents"
    (bundle / "MacOS").mkdir(parents=True)
    (bundle / "Resources").mkdir()
    program = bundle / "MacOS" / "chat"
    program.write_bytes(runtime)
    program.chmod(0o755)

    def run(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([path, *words], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=300, check=False)  # fmt: skip

    assert "no archive at the end" in run(program, "info").stderr
    model = bundle / "Resources" / "model"
    (tmp_path / "whole").rename(model)  # an archive behind a runtime serves as well
    ask = ["-p", "What is the capital of France?", "--temp", "0", "-n", "8"]
    assert "Paris" in run(program, *ask).stdout
    assert "ok" in run(program, "verify").stdout
    (tmp_path / "link").symlink_to(program)
    assert '"name": "A"' in run(tmp_path / "link", "info", "--json").stdout
    # Elsewhere nothing of the kind is looked for, and a damaged archive is not passed over.
    (tmp_path / "Resources").mkdir()
    (tmp_path / "Resources" / "model").symlink_to(model)
    (tmp_path / "MacOS").mkdir()
    shutil.copy(program, tmp_path / "MacOS" / "chat")
    assert "no archive at the end" in run(tmp_path / "MacOS" / "chat", "info").stderr
    model.write_bytes(model.read_bytes()[:-100])
    assert "model: no archive at the end" in run(program, "info").stderr


@pytest.mark.desktop
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="this machine is no x86-64")
@pytest.mark.parametrize("name", ["chat", "my chat", "a\"b$c`d\\e%f'g"])
def test_desktop_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a $folder"
    folder.mkdir()
    (tmp_path / "icon.png").write_bytes(png(512))
    program = folder / name
    llamapack("build", "--no-model", "-o", program, "--target", "linux-x86_64", "--desktop",
              "--icon", tmp_path / "icon.png", "--name", "Chat; 50 %\\")  # fmt: skip
    entry = folder / f"{name}.desktop"
    done = subprocess.run(
        ["desktop-file-validate", entry], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert (folder / f"{name}.png").read_bytes() == png(512)
    # Started as a desktop does it: the string undone, then the quotes, then the field code.
    program.write_text('#!/bin/sh\nprintf "started %s\\n" "$0"\n')
    line = next(row for row in entry.read_text().splitlines() if row.startswith("Exec="))
    said = subprocess.run(
        exec_words(line.removeprefix("Exec="), str(entry)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"started {program}\n"
    # Installed apart from the program: from PATH.
    moved = tmp_path / entry.name
    entry.rename(moved)
    said = subprocess.run(
        exec_words(line.removeprefix("Exec="), str(moved)), capture_output=True, text=True,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, check=True,
    )  # fmt: skip
    assert said.stdout == f"started {program}\n"


def exec_words(value: str, location: str) -> list[str]:
    """The Exec key's value as words, by the Desktop Entry Specification."""
    text, at = value.replace("\\\\", "\\"), 0
    words: list[str] = []
    while at < len(text):
        word = ""
        if text[at] == '"':
            at += 1
            while text[at] != '"':
                at += text[at] == "\\"
                word += text[at]
                at += 1
            at += 1
        else:
            while at < len(text) and text[at] != " ":
                word += text[at]
                at += 1
        words.append(location if word == "%k" else word.replace("%%", "%"))
        at += 1
    return words


def test_desktop_does_not_write_over_the_icon_it_takes(tmp_path: Path) -> None:
    picture = tmp_path / "chat.png"
    Image.new("RGB", (1000, 1000), (200, 30, 30)).save(picture)
    before = picture.read_bytes()
    done = llamapack("build", "--no-model", "-o", tmp_path / "chat", "--desktop",
                     "--icon", picture, code=1)  # fmt: skip
    assert f"--desktop writes {picture}, which is the icon; keep that elsewhere" in done.stderr
    assert picture.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["chat.png"]


def test_what_desktop_writes_is_checked_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "chat.desktop").mkdir()
    done = llamapack("build", "--no-model", "-o", tmp_path / "chat", "--desktop", code=1)
    assert "chat.desktop is a directory" in done.stderr and not (tmp_path / "chat").exists()


@pytest.mark.parametrize("option", ["--app", "--desktop"])
def test_a_damaged_picture_of_a_fitting_size_is_refused(tmp_path: Path, option: str) -> None:
    whole = io.BytesIO()
    Image.effect_noise((512, 512), 90).save(whole, "PNG")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.getvalue()[:5000])
    target = "macos-aarch64" if option == "--app" else "linux-x86_64"
    done = llamapack("build", "--no-model", "-o", tmp_path / "chat", option, "--icon", cut,
                     "--target", target, code=1)  # fmt: skip
    assert "a damaged PNG file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cut.png"]
