"""What Windows shows of a program: icon, version, name, and what its manifest asks of the system.

pefile, lief and Pillow read what the builder wrote; none of them had a part in writing it.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import llamapack
import pytest
from llamapack import icons, toolchain
from llamapack.errors import LlamapackError
from llamapack.formats import pe, resources
from llamapack.targets import TARGETS, Target
from PIL import Image

WINDOWS = [target for target in TARGETS if target.format == "pe"]
targets = pytest.mark.parametrize("target", WINDOWS, ids=lambda target: target.name)
ICON, GROUP_ICON = 3, 14


def build(run_cli: Callable[..., int], out: Path, target: str, *options: str) -> Path:
    code = run_cli("build", "--no-model", "-o", str(out), "--target", target, *options)
    assert code == 0
    return out.with_name(f"{out.name}.exe") if target.startswith("windows") else out


def parse(path: Path) -> Any:
    import pefile

    parsed = pefile.PE(str(path))
    assert parsed.get_warnings() == []
    return parsed


def pieces(parsed: Any, kind: int) -> list[tuple[int, bytes]]:
    """Id and data of the resources of a type, in their order."""
    top = next(e for e in parsed.DIRECTORY_ENTRY_RESOURCE.entries if e.id == kind)
    rows = []
    for entry in top.directory.entries:
        (language,) = entry.directory.entries
        place = language.data.struct
        rows.append((entry.id, parsed.get_data(place.OffsetToData, place.Size)))
    return rows


def icon_of(parsed: Any) -> Image.Image:
    """The program's icon as an .ico file that Pillow opens."""
    ((_, group),) = pieces(parsed, GROUP_ICON)
    images = dict(pieces(parsed, ICON))
    (count,) = struct.unpack_from("<H", group, 4)
    head, body = group[:6], b""
    for i in range(count):
        row = group[6 + 14 * i : 20 + 14 * i]
        size, number = struct.unpack_from("<IH", row, 8)
        assert size == len(images[number])
        head += row[:12] + struct.pack("<I", 6 + 16 * count + len(body))
        body += images[number]
    return Image.open(io.BytesIO(head + body), formats=["ICO"])


def picture(size: tuple[int, int] = (300, 300)) -> Image.Image:
    """Red above blue, the right third clear."""
    image = Image.new("RGBA", size, (255, 0, 0, 255))
    image.paste((0, 0, 255, 255), (0, size[1] // 2, size[0], size[1]))
    image.paste((0, 0, 0, 0), (size[0] * 2 // 3, 0, size[0], size[1]))
    return image


@targets
def test_every_program_says_what_it_is(
    target: Target, tmp_path: Path, run_cli: Callable[..., int]
) -> None:
    import lief

    path = build(run_cli, tmp_path / "chat", target.name, "--name", "Prüfling 🦙",
                 "--version-string", "v2.1.70000-beta")  # fmt: skip
    parsed = parse(path)
    (table,) = (t for info in parsed.FileInfo[0] for t in getattr(info, "StringTable", []))
    texts = {key.decode(): value.decode() for key, value in table.entries.items()}
    # pefile writes what lies outside of the first plane in halves.
    assert texts["FileDescription"] == texts["ProductName"] == "Prüfling \\ud83e\\udd99"
    ((_, raw),) = pieces(parsed, 16)
    assert raw.count("Prüfling 🦙\0".encode("utf-16-le")) == 3
    assert texts["FileVersion"] == texts["ProductVersion"] == "v2.1.70000-beta"
    assert texts["Comments"] == f"Made with llamapack {llamapack.__version__}"
    assert table.LangID == b"040904B0"
    fixed = parsed.VS_FIXEDFILEINFO[0]
    assert (fixed.FileVersionMS, fixed.FileVersionLS) == (2 << 16 | 1, 65535 << 16)

    ((_, manifest),) = pieces(parsed, 24)
    asked = {e.tag.rsplit("}")[1]: e for e in ElementTree.fromstring(manifest).iter()}
    assert asked["activeCodePage"].text == "UTF-8"
    assert asked["longPathAware"].text == "true"
    assert asked["requestedExecutionLevel"].get("level") == "asInvoker"
    assert asked["supportedOS"].get("Id") == "{8e0f7a12-bfb3-4fe8-b9a5-48fd50a15a9a}"

    binary = lief.parse(str(path))
    assert isinstance(binary, lief.PE.Binary)
    assert lief.PE.check_layout(binary) == (True, "")
    assert binary.resources_manager.has_manifest
    assert binary.resources_manager.has_version
    assert len(list(binary.resources_manager.icons)) == len(icons.SIZES)
    # The page and the tables included.
    assert path.stat().st_size <= 2 << 20


@targets
def test_without_options_the_icon_is_ours(
    target: Target, tmp_path: Path, run_cli: Callable[..., int]
) -> None:
    icon: Any = icon_of(parse(build(run_cli, tmp_path / "chat", target.name)))
    assert icon.ico.sizes() == {(size, size) for size in icons.SIZES}
    for size in icons.SIZES:
        image = icon.ico.getimage((size, size)).convert("RGBA")
        colors = {color: count for count, color in image.getcolors(size * size)}
        assert image.getpixel((0, 0))[3] == 0
        assert image.getpixel((size * 5 // 32, size * 14 // 32)) == (*icons._GREEN, 255)
        # Clear around it, and mostly the bubble: 26 x 20 of 32 x 32 less lines and corners.
        solid = sum(count for color, count in colors.items() if color[3] > 127)
        assert 0.48 < solid / size**2 < 0.58


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 300), [16, 24, 32, 48, 64, 128, 256]), ((100, 80), [16, 24, 32, 48, 64, 100]),
     ((16, 16), [16])],
)  # fmt: skip
def test_a_png_becomes_every_size_up_to_its_own(
    size: tuple[int, int], expected: list[int], tmp_path: Path, run_cli: Callable[..., int]
) -> None:
    picture(size).save(tmp_path / "own.png")
    parsed = parse(build(run_cli, tmp_path / "chat", "windows-x86_64", "--icon",
                         str(tmp_path / "own.png")))  # fmt: skip
    icon: Any = icon_of(parsed)
    assert sorted(icon.ico.sizes()) == [(side, side) for side in expected]
    for side in expected:
        image = icon.ico.getimage((side, side)).convert("RGBA")
        used = side * size[1] // size[0]  # a picture that is no square is not made one
        above, below = side // 2 - used // 4, side // 2 + used // 4
        assert image.getpixel((side // 4, above)) == pytest.approx((255, 0, 0, 255), abs=9)
        assert image.getpixel((side // 4, below)) == pytest.approx((0, 0, 255, 255), abs=9)
        assert image.getpixel((side - 1, above))[3] == 0
        if used < side * 0.9:
            assert image.getpixel((side // 4, 0))[3] < 20


@pytest.mark.parametrize("bitmaps", [True, False], ids=["bitmaps", "pngs"])
def test_an_ico_is_taken_as_it_is(
    bitmaps: bool, tmp_path: Path, run_cli: Callable[..., int]
) -> None:
    own = tmp_path / "own.ico"
    form = "bmp" if bitmaps else "png"
    picture().save(own, format="ICO", sizes=[(16, 16), (48, 48), (256, 256)], bitmap_format=form)
    parsed = parse(build(run_cli, tmp_path / "chat", "windows-x86_64", "--icon", str(own)))
    raw = own.read_bytes()
    for i, (_, data) in enumerate(pieces(parsed, ICON)):
        size, offset = struct.unpack_from("<II", raw, 6 + 16 * i + 8)
        assert data == raw[offset : offset + size]
    icon: Any = icon_of(parsed)
    assert icon.ico.sizes() == {(16, 16), (48, 48), (256, 256)}


def ico(data: bytes, kind: int = 1, count: int = 1) -> bytes:
    row = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(data), 22)
    return struct.pack("<HHH", 0, kind, count) + row + data


def bitmap(width: int = 16, rows: int = 32, bits: int = 32, size: int = 16 * 16 * 4) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, rows, 1, bits, 0, 0, 0, 0, 0, 0) + bytes(size)


def png(size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, format="PNG")
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


BAD_ICONS = {
    "empty": (b"", "neither a PNG nor an ICO"),
    "text": (b"<svg/>", "neither a PNG nor an ICO"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(99), "neither a PNG nor an ICO"),
    "cursor": (ico(bitmap(), kind=2), "neither a PNG nor an ICO"),
    "no images": (struct.pack("<HHH", 0, 1, 0), "no images"),
    "ico cut in its list": (ico(b"", count=9)[:40], "cut off"),
    "ico cut in an image": (ico(bitmap())[:-1], "lies outside"),
    "ico of nonsense": (ico(b"nonsense" * 9), "not a bitmap"),
    "ico of a short bitmap": (ico(bitmap(size=100)), "cut off"),
    "ico of a wide bitmap": (ico(bitmap(width=1 << 20)), "at most 256"),
    "ico of a negative bitmap": (ico(bitmap(width=-16)), "at most 256"),
    "ico of a bitmap without mask": (ico(bitmap(rows=0)), "without mask"),
    "ico of an odd depth": (ico(bitmap(bits=31)), "not a bitmap"),
    "ico of one image twice": (struct.pack("<HHH", 0, 1, 2)
                               + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, 1128, 38) * 2
                               + bitmap(size=1088), "overlap"),
    "ico of a large png": (ico(png((300, 300))), "at most 256"),
    "tiny png": (png((15, 15)), "at least 16"),
    "png cut off": (png((64, 64))[:60], "damaged PNG"),
    "only png's signature": (b"\x89PNG\r\n\x1a\n", "damaged PNG"),
    "huge png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1 << 30, 1 << 30) + bytes(9),
                 "at most 4096"),
    "huge png behind another header": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"prVt", struct.pack(">II", 16, 16))
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 6, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(99))), "at most 4096"),
    "large file": (bytes((16 << 20) + 1), "larger than"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ICONS)
def test_a_bad_icon_is_one_line(
    case: str, tmp_path: Path, run_cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    data, message = BAD_ICONS[case]
    (tmp_path / "own.png").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code = run_cli("build", "--no-model", "-o", str(tmp_path / "chat"), "--target",
                       "windows-x86_64", "--icon", str(tmp_path / "own.png"))  # fmt: skip
    said = capsys.readouterr().err
    assert code == 1
    assert said.count("\n") == 1
    assert said.startswith("error: --icon ")
    assert message in said
    assert [path.name for path in tmp_path.iterdir()] == ["own.png"]


def test_no_icon_file(
    tmp_path: Path, run_cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        assert run_cli("build", "--no-model", "-o", str(tmp_path / "c"), "--icon", str(path)) == 1
        assert capsys.readouterr().err == f"error: --icon: no such file: {path}\n"


def test_other_systems_say_that_they_show_nothing(
    tmp_path: Path, run_cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    picture().save(tmp_path / "own.png")
    build(run_cli, tmp_path / "chat", "linux-x86_64", "--icon", str(tmp_path / "own.png"),
          "--version-string", "1")  # fmt: skip
    said = capsys.readouterr().err
    for option in ("--icon", "--version-string"):
        assert f"warning: {option}: none of the outputs shows it; it is kept" in said


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1.2.3.4", (1, 2, 3, 4)), ("0.1.0", (0, 1, 0, 0)), ("v7", (7, 0, 0, 0)), ("", (0, 0, 0, 0)),
     ("spring", (0, 0, 0, 0)), ("3.1rc2", (3, 1, 0, 0)), ("2026.11.25-4", (2026, 11, 25, 0)),
     ("99999.1", (65535, 1, 0, 0)), ("123456", (0, 0, 0, 0)), ("1.2.3.4.5", (1, 2, 3, 4))],
)  # fmt: skip
def test_version_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert resources.version_numbers(text) == numbers


# --- the section ---------------------------------------------------------------------------------

SOME = [resources.Resource(24, 1, b"<assembly/>"), resources.Resource(3, 2, b"two" * 999),
        resources.Resource(3, 1, b"one"), resources.Resource(10, 7, b"")]  # fmt: skip


@targets
def test_the_section_leaves_all_else_alone(target: Target, tmp_path: Path) -> None:
    runtime = toolchain.build_runtime(target)
    made = pe.add_resources(runtime, SOME)
    assert made == pe.add_resources(runtime, list(reversed(SOME)))
    (tmp_path / "before.exe").write_bytes(runtime)
    (tmp_path / "after.exe").write_bytes(made)
    before, after = parse(tmp_path / "before.exe"), parse(tmp_path / "after.exe")
    *kept, added = after.sections
    assert [s.get_data() for s in kept] == [s.get_data() for s in before.sections]
    assert [s.__pack__() for s in kept] == [s.__pack__() for s in before.sections]
    assert added.Name.rstrip(b"\0") == b".rsrc"
    assert not added.Characteristics & 0xA0000000  # neither written to nor run
    end = added.VirtualAddress + added.Misc_VirtualSize
    assert after.OPTIONAL_HEADER.SizeOfImage == -(-end // 4096) * 4096
    grown = after.OPTIONAL_HEADER.SizeOfInitializedData - added.SizeOfRawData
    assert grown == before.OPTIONAL_HEADER.SizeOfInitializedData
    assert {kind: pieces(after, kind) for kind in (3, 10, 24)} == {
        3: [(1, b"one"), (2, b"two" * 999)], 10: [(7, b"")], 24: [(1, b"<assembly/>")],
    }  # fmt: skip


def section_table(runtime: bytes) -> int:
    (header,) = struct.unpack_from("<I", runtime, 0x3C)
    (size,) = struct.unpack_from("<H", runtime, header + 20)
    return int(header + 24 + size)


def test_a_runtime_that_takes_no_section_is_refused() -> None:
    runtime = toolchain.build_runtime(WINDOWS[0])
    table = section_table(runtime)
    (count,) = struct.unpack_from("<H", runtime, section_table(runtime) - 240 - 18)
    end = table + 40 * count

    def refused(data: bytes, message: str) -> None:
        with pytest.raises(LlamapackError, match=message):
            pe.add_resources(data, SOME)

    used = bytearray(runtime)
    used[end + 39] = 1  # something lies where the section's row would
    refused(bytes(used), "no room for one more section")
    short = bytearray(runtime)
    struct.pack_into("<I", short, table - 240 + 60, end + 39)  # SizeOfHeaders
    refused(bytes(short), "no room for one more section")
    refused(pe.add_resources(runtime, SOME), "resources already")
    refused(runtime + b"x", "behind its last section")
    refused(runtime[:-512], "outside the file")
    refused(runtime[: end - 1], "cut off")
    refused(b"MZ" + bytes(100), "not a PE file")
    refused(b"MZ", "too short")
