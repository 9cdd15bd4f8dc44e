"""What a file is, by its first bytes: enough to show a picture, read a text and refuse the rest by name."""

from __future__ import annotations

from typing import Final

SAMPLE_BYTES: Final = 8192

IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_BINARIES: Final = (
    (b"%PDF-", "PDF document"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"\x7fELF", "ELF program"),
    (b"MZ", "Windows program"),
    (b"\xcf\xfa\xed\xfe", "Mach-O program"),
    (b"SQLite format 3\x00", "SQLite database"),
    (b"\x00asm", "WebAssembly module"),
    (b"OggS", "Ogg media"),
    (b"ID3", "MP3 audio"),
    (b"fLaC", "FLAC audio"),
    (b"RIFF", "RIFF media"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)


def image_type(sample: bytes) -> str | None:
    """The media type of a picture models can look at, or None."""
    if sample[:4] == b"RIFF" and sample[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in IMAGES if sample.startswith(magic)), None)


def is_binary(sample: bytes) -> bool:
    """Whether this is no text: it holds a NUL, as UTF-16 and every common binary format do early on."""
    return b"\0" in sample or sample.startswith((b"%PDF-", b"\x1f\x8b"))


def binary_kind(sample: bytes) -> str:
    """What to call a binary file."""
    if sample[4:8] == b"ftyp":
        return "MP4 media"
    return next((kind for magic, kind in _BINARIES if sample.startswith(magic)), "binary data")


def size_of(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
