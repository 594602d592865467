"""Icons of macOS: a file of images, here PNG files of fixed sizes as they are.

Layout, all numbers big-endian: "icns", u32 size of the file; per image a type of four letters, u32
size of this record (8 bytes more than the image), the image. Types that hold PNG: ic07 128 pixels,
ic08 256, ic09 512, ic10 1024. The system makes the smaller ones from them.

SPDX-License-Identifier: Apache-2.0
"""

import struct
from collections.abc import Mapping

__all__ = ["TYPES", "icns"]

TYPES = {128: b"ic07", 256: b"ic08", 512: b"ic09", 1024: b"ic10"}


def icns(images: Mapping[int, bytes]) -> bytes:
    """The file for PNG images by their size in pixels, which is a key of TYPES."""
    records = [
        TYPES[size] + struct.pack(">I", 8 + len(image)) + image
        for size, image in sorted(images.items())
    ]
    body = b"".join(records)
    return b"icns" + struct.pack(">I", 8 + len(body)) + body
