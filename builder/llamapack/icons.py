"""Pictures for a program: read from what the user has, or drawn.

An icon is a list of square images, small to large. Windows takes those up to 48 pixels as bitmaps
(every program that shows icons understands them) and larger ones as PNG; macOS and Linux desktops
take PNG files of few sizes (formats/icns.py).

`draw` makes llamapack's own: the speech bubble of the page's favicon (templates/web/public), in the
same 32 x 32 units, without the page's build. The edge of a shape is its signed distance to the
pixel's centre, cut at half a pixel.

Layout of .ico: u16 0, u16 1, u16 count; per image u8 width, u8 height (0: 256), u8 colours, u8 0,
u16 planes, u16 bits, u32 size, u32 offset. A bitmap inside is a 40-byte header whose height counts
colour and mask rows, a palette, rows from the bottom up in BGRA, and a mask of one bit per pixel;
rows are padded to 4 bytes.

SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamapack.errors import LlamapackError
from llamapack.formats.icns import TYPES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Grid = NDArray[np.float64]

__all__ = [
    "ICON_ENTRIES",
    "MAX_FILE",
    "IconFile",
    "Image",
    "draw",
    "encode_png",
    "images",
    "pictures",
    "read_icon",
    "standard_icon",
    "standard_pictures",
]

SIZES = (16, 24, 32, 48, 64, 128, 256)
_PICTURES = (128, 256, 512)
_BITMAPS = 48  # up to this size as bitmaps
_PNG = b"\x89PNG\r\n\x1a\n"
_ICO = b"\0\0\1\0"
MAX_FILE = 16 << 20
ICON_ENTRIES = ("icon.png", "icon.ico")
"""What an icon is called in a container, by its kind."""

_MAX_ICO = 2 << 20
_MAX_SIDE = 4096
Point = tuple[float, float]
_GREEN, _WHITE = (0x14, 0x80, 0x6B), (0xFF, 0xFF, 0xFF)


@dataclass(frozen=True, slots=True)
class Image:
    """One size of an icon, as it stands in an .ico file."""

    width: int
    height: int
    bits: int
    data: bytes
    colors: int = 0  # of a palette with fewer than 256


@dataclass(frozen=True, slots=True)
class IconFile:
    """An icon as somebody gave it: the bytes of a .png or an .ico, nothing of which is checked."""

    data: bytes
    named: str  # what messages call it
    advice: str = ""  # what they add

    @property
    def entry(self) -> str:
        return ICON_ENTRIES[0 if self.data.startswith(_PNG) else 1]

    def bad(self, what: str) -> LlamapackError:
        return LlamapackError(f"{self.named}: {what}{self.advice}")


def read_icon(path: Path) -> IconFile:
    """The file that --icon names."""
    try:
        if not path.is_file():
            raise LlamapackError(f"--icon: no such file: {path}")
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise LlamapackError(f"--icon: cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise LlamapackError(f"--icon: not a usable path: {str(path)!r}") from None
    return IconFile(data, f"--icon {path}")


def images(icon: IconFile) -> list[Image]:
    """For Windows: the images of a .ico as they are, or a .png in the usual sizes up to its own."""
    _check_kind(icon)
    return _from_png(icon) if icon.data.startswith(_PNG) else _from_ico(icon)


def pictures(icon: IconFile) -> dict[int, bytes]:
    """For macOS and Linux, by size in pixels: the PNG files in it of sizes that they take, as they
    are; where there is none, its largest picture scaled to those."""
    _check_kind(icon)
    found: dict[int, bytes] = {}
    for offset, size in _png_places(icon.data):
        width, height = struct.unpack_from(">II", icon.data, offset + 16)
        # Each size once, whatever the list of a damaged file says.
        if width == height and width in TYPES and width not in found:
            found[width] = icon.data[offset : offset + size]
            _decoded(IconFile(found[width], icon.named, icon.advice))  # whether it is whole
    if found:
        return found
    picture = _decoded(_largest(icon) if icon.data.startswith(_ICO) else icon)
    sizes = [size for size in _PICTURES if size <= picture.size[0]] or _PICTURES[:1]
    return {size: encode_png(_resized(picture, size), size) for size in sizes}


def _check_kind(icon: IconFile) -> None:
    if len(icon.data) > MAX_FILE:
        raise icon.bad(f"larger than {MAX_FILE >> 20} MiB")
    if not icon.data.startswith((_PNG, _ICO)):
        raise icon.bad("neither a PNG nor an ICO file")


def standard_icon() -> list[Image]:
    """llamapack's own."""
    return [_image(draw(size), size) for size in SIZES]


def standard_pictures() -> dict[int, bytes]:
    """llamapack's own as PNG files for macOS and Linux, by size in pixels."""
    return {size: encode_png(draw(size), size) for size in _PICTURES}


# --- reading -----------------------------------------------------------------------------------


def _from_png(icon: IconFile) -> list[Image]:
    picture = _decoded(icon)
    side = picture.size[0]
    sizes = sorted({*(size for size in SIZES if size <= side), min(side, SIZES[-1])})
    return [_image(_resized(picture, size), size) for size in sizes]


def _decoded(icon: IconFile) -> Any:
    """Its (largest) picture, made a square of RGBA pixels, as Pillow's image."""
    try:
        from PIL import Image as Pillow
    except ImportError:
        raise LlamapackError("--icon: reading a PNG takes Pillow: pip install pillow") from None
    kind = "PNG" if icon.data.startswith(_PNG) else "ICO"
    if kind == "PNG":
        _check_side(icon, *struct.unpack(">II", icon.data[16:24].ljust(8, b"\0")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture: Any = Pillow.open(io.BytesIO(icon.data), formats=[kind])  # a PNG: headers only
            # What counts in a damaged file may stand elsewhere than in its first header.
            _check_side(icon, *picture.size)
            picture = picture.convert("RGBA")
    except LlamapackError:
        raise
    except Exception as error:  # whatever a damaged file makes a decoder raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise icon.bad(f"a damaged {kind} file ({text})") from None
    width, height = picture.size
    side = max(width, height)
    if side < SIZES[0]:
        raise icon.bad(f"{width} x {height} pixels; an icon needs at least {SIZES[0]}")
    if width != height:  # never distorted: the rest of the square stays clear
        square = Pillow.new("RGBA", (side, side), (0, 0, 0, 0))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        picture = square
    return picture


def _resized(picture: Any, size: int) -> bytes:
    from PIL import Image as Pillow

    data: bytes = picture.resize((size, size), Pillow.Resampling.LANCZOS).tobytes()
    return data


def _check_side(icon: IconFile, width: int, height: int) -> None:
    if max(width, height) > _MAX_SIDE:
        raise icon.bad(f"{width} x {height} pixels; at most {_MAX_SIDE} are possible")


def _from_ico(icon: IconFile) -> list[Image]:
    data = icon.data
    if len(data) > _MAX_ICO:
        raise icon.bad(f"larger than {_MAX_ICO >> 20} MiB")
    (count,) = struct.unpack("<H", data[4:6].ljust(2, b"\0"))
    if count == 0 or len(data) < 6 + 16 * count:
        raise icon.bad("a damaged ICO file (no images, or cut off)")
    found: list[Image] = []
    used = 0
    for index in range(count):
        size, offset = struct.unpack_from("<II", data, 6 + 16 * index + 8)
        if offset + size > len(data):
            raise icon.bad(f"a damaged ICO file (image {index + 1} lies outside of it)")
        used += size
        if used > len(data):
            raise icon.bad("a damaged ICO file (its images overlap)")
        image = _ico_image(data[offset : offset + size])
        if isinstance(image, str):
            raise icon.bad(f"a damaged ICO file (image {index + 1}: {image})")
        found.append(image)
    return found


def _largest(icon: IconFile) -> IconFile:
    """The largest picture of an .ico as a file of its own, so that a decoder sees nothing else."""
    image = max(_from_ico(icon), key=lambda image: (image.width, image.bits))
    data = image.data
    if not data.startswith(_PNG):
        sides = (image.width & 255, image.height & 255, image.colors & 255)
        data = struct.pack("<4sH4B2H2I", _ICO, 1, *sides, 0, 1, image.bits, len(data), 22) + data
    return IconFile(data, icon.named, icon.advice)


def _png_places(data: bytes) -> list[tuple[int, int]]:
    """Offset and size of the PNG files in a .png or .ico."""
    if data.startswith(_PNG):
        return [(0, len(data))] if len(data) > 33 else []
    places = []
    for index in range(struct.unpack("<H", data[4:6].ljust(2, b"\0"))[0]):
        if 22 + 16 * index > len(data):
            break
        size, offset = struct.unpack_from("<II", data, 14 + 16 * index)
        if size > 33 and offset + size <= len(data) and data.startswith(_PNG, offset):
            places.append((offset, size))
    return places


def _ico_image(data: bytes) -> Image | str:
    """The image, or what is wrong with it. What the directory says of it is not needed."""
    if data.startswith(_PNG):
        if len(data) < 33 or data[12:16] != b"IHDR":
            return "a PNG without header"
        width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
        bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 0)
        need = 33
    else:
        if len(data) < 40:
            return "too short"
        head, width, rows, planes, bits, packed = struct.unpack_from("<IiiHHI", data, 0)
        if head != 40 or planes > 1 or bits not in (1, 4, 8, 24, 32) or packed:
            return "not a bitmap that icons may hold"
        height = rows // 2
        if rows % 2 or rows <= 0:
            return "a bitmap without mask"
        used = struct.unpack_from("<I", data, 32)[0] or 1 << bits
        palette = 4 * min(used, 256) if bits <= 8 else 0
        # The mask of an image with an alpha channel is often left out.
        mask = 0 if bits == 32 else _row_size(width, 1) * height
        need = 40 + palette + _row_size(width, bits) * height + mask
    if not (0 < width <= SIZES[-1] and 0 < height <= SIZES[-1]):
        return f"{width} x {height} pixels; at most {SIZES[-1]} are possible"
    if len(data) < need:
        return "cut off"
    return Image(width, height, bits, data, (1 << bits) % 256 if bits < 8 else 0)


def _row_size(width: int, bits: int) -> int:
    return (width * bits + 31) // 32 * 4


# --- writing -----------------------------------------------------------------------------------


def _image(rgba: bytes, size: int) -> Image:
    data = _encode_bitmap(rgba, size) if size <= _BITMAPS else encode_png(rgba, size)
    return Image(size, size, 32, data)


def encode_png(rgba: bytes, size: int) -> bytes:
    """A square of 8-bit RGBA pixels, rows from the top down, as a PNG file."""
    stride = 4 * size
    # Filter 2: each byte less the one above it.
    rows = [b"\2" + _minus(rgba, y * stride, stride) for y in range(size)]
    header = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b""))
    return _PNG + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def _minus(data: bytes, at: int, stride: int) -> bytes:
    above = data[at - stride : at] if at else bytes(stride)
    return bytes((a - b) & 255 for a, b in zip(data[at : at + stride], above, strict=True))


def _encode_bitmap(rgba: bytes, size: int) -> bytes:
    stride, mask_stride = 4 * size, _row_size(size, 1)
    header = struct.pack("<IiiHHIIiiII", 40, size, 2 * size, 1, 32, 0, 0, 0, 0, 0, 0)
    pixels, mask = bytearray(), bytearray()
    for y in reversed(range(size)):
        row = rgba[y * stride : (y + 1) * stride]
        swapped = bytearray(row)
        swapped[0::4], swapped[2::4] = row[2::4], row[0::4]
        pixels += swapped
        clear = "".join("0" if alpha else "1" for alpha in row[3::4]).ljust(8 * mask_stride, "0")
        mask += int(clear, 2).to_bytes(mask_stride, "big")
    return header + bytes(pixels) + bytes(mask)


# --- drawing -----------------------------------------------------------------------------------


def draw(size: int) -> bytes:
    """llamapack's icon as 8-bit RGBA pixels, rows from the top down."""
    import numpy as np

    scale = size / 32
    centres = (np.arange(size) + 0.5) / scale
    x, y = np.meshgrid(centres, centres)
    bubble = np.minimum(
        _box(x, y, (3, 4), (29, 24), 4),
        _polygon(x, y, [(7, 22), (18, 22), (9, 29.2), (8, 29.5), (7, 28.6)]),
    )
    lines = np.minimum(
        _stroke(x, y, (9.5, 11.2), (22.5, 11.2), 1.2), _stroke(x, y, (9.5, 16.8), (17.5, 16.8), 1.2)
    )
    inside, white = (np.clip(0.5 - d * scale, 0, 1)[..., None] for d in (bubble, lines))
    color = np.array(_GREEN) * (1 - white) + np.array(_WHITE) * white
    pixels = np.concatenate([np.where(inside > 0, color, 0), inside * 255], axis=2)
    data: bytes = np.rint(pixels).astype(np.uint8).tobytes()
    return data


def _box(x: Grid, y: Grid, low: Point, high: Point, radius: float) -> Grid:
    """Signed distance to a rectangle with round corners."""
    import numpy as np

    dx = np.abs(x - (low[0] + high[0]) / 2) - (high[0] - low[0]) / 2 + radius
    dy = np.abs(y - (low[1] + high[1]) / 2) - (high[1] - low[1]) / 2 + radius
    outside: Grid = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - radius


def _stroke(x: Grid, y: Grid, start: Point, end: Point, radius: float) -> Grid:
    """Signed distance to a line with round ends."""
    import numpy as np

    ex, ey = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    distance: Grid = np.hypot(px - along * ex, py - along * ey)
    return distance - radius


def _polygon(x: Grid, y: Grid, corners: Sequence[Point]) -> Grid:
    """Signed distance to a convex polygon, corners clockwise on the screen; too small only outside
    of its corners, where half a pixel does not show."""
    import numpy as np

    distance = np.full_like(x, -np.inf)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = np.hypot(bx - ax, by - ay)
        distance = np.maximum(distance, ((x - ax) * (ay - by) + (y - ay) * (bx - ax)) / -length)
    return distance
