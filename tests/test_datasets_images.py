"""What becomes of images that are not plain: each kind has one stated behaviour, from the file to the network's input."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniatures import photo, write
from PIL import Image

from featstore import BadInput, Preprocessing, UnreadableImage, load_split
from featstore.splits import decode

PLAIN = Preprocessing((8, 8), (0, 0, 0), (1, 1, 1))
GREY = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """What a network of three channels is given."""
    return PLAIN.pixels(decode(content, "here"))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes) -> bytes:
    """A black-and-white PNG of a size that its data need not have."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    """2 kB that would become 400 million pixels; PIL's limit of 179 million holds, before memory is asked for."""
    with pytest.raises(UnreadableImage, match=r"here does not decode .* exceeds limit"):
        decode(png(20_000, 20_000, b""), "here")


def test_a_text_bomb_in_a_png_is_refused() -> None:
    """A comment that unpacks to 200 MB; PIL reads a megabyte of it, and refuses."""
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    content = saved(GREY, "PNG")
    with pytest.raises(UnreadableImage, match="here does not decode"):
        decode(content[:33] + bomb + content[33:], "here")


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featstore.datasets.folders.MAX_MEMBER_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/big.png", bytes(10_001))
    with pytest.raises(UnreadableImage, match=r"big\.png unpacks to more than 10000 bytes"):
        load_split(str(tmp_path / "a.zip")).image(0)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [COLOURS, Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 255, 0))]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    opened = Image.open(io.BytesIO(content))
    assert opened.n_frames == 3  # type: ignore[attr-defined]
    expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(pixels(content), expected)
    if kind != "GIF":  # a GIF has at most 256 colours
        assert np.array_equal(expected, np.asarray(COLOURS))


def test_cmyk_becomes_rgb() -> None:
    """Ink, not light: full cyan has no red."""
    found = pixels(saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100))
    assert np.abs(found[4, 4].astype(int) - (0, 255, 255)).max() <= 3, "JPEG rounds"


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    """PIL's own conversion makes all values above 255 white."""
    deep = Image.fromarray((np.asarray(GREY).astype(np.uint16) << 8) + 7)
    for kind in ("PNG", "TIFF"):
        found = pixels(saved(deep, kind))
        assert np.array_equal(found, np.repeat(np.asarray(GREY)[:, :, None], 3, axis=2))


def test_floating_point_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="no defined white"):
        pixels(saved(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"))


def test_a_palette_is_looked_up() -> None:
    palette = COLOURS.quantize(16)
    assert np.array_equal(pixels(saved(palette, "PNG")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped(mode: str) -> None:
    """The colour below a transparent pixel is what counts; nothing is blended."""
    clear = (COLOURS if mode == "RGBA" else GREY).convert(mode)
    clear.putalpha(0)
    expected = np.asarray((COLOURS if mode == "RGBA" else GREY).convert("RGB"))
    assert np.array_equal(pixels(saved(clear, "PNG")), expected)


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, 1),
}
"""EXIF's orientations: where the first row and column of the stored image belong in the upright one."""


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_images_upright(orientation: int) -> None:
    stored = np.arange(48, dtype=np.uint8).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(stored), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(content, "here")), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("content", [b"", b"\xff", b"hello", bytes(1000)], ids=["empty", "one byte", "text", "zeros"])
def test_what_is_no_image_is_named(content: bytes) -> None:
    with pytest.raises(
        UnreadableImage, match=f"here does not decode to an image: its {len(content)} bytes are of no known"
    ):
        decode(content, "here")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_no_truncated_image_passes_as_a_whole_one(kind: str) -> None:
    """Cut anywhere in its first nine tenths, a file is unreadable; never half an image, never another error."""
    content = saved(COLOURS.resize((40, 40)), kind)
    for end in np.linspace(1, 0.9 * len(content), 25).astype(int).tolist():
        with pytest.raises(UnreadableImage):
            decode(content[:end], "here")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_damaged_bytes_are_an_image_or_unreadable(kind: str) -> None:
    """Whatever decoders stumble over, one kind of error comes out."""
    content = bytearray(saved(COLOURS.resize((40, 40)), kind))
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for at in generator.integers(0, len(content), 8).tolist():
            damaged[at] = generator.integers(256)
        with contextlib.suppress(UnreadableImage):
            assert decode(bytes(damaged), "here").width > 0


@pytest.mark.parametrize("name", ["../cat/x.png", "/cat/x.png", "cat/../../x.png", "..\\cat\\x.png", "C:\\cat\\x.png"])
def test_names_in_a_zip_cannot_lead_out_of_it(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, photo(0, "PNG"))
    with pytest.raises(BadInput, match="leads out of"):
        load_split(str(tmp_path / "a.zip"))


def test_names_with_dots_are_names(tmp_path: Path) -> None:
    write(tmp_path, {"c..at/x...png": photo(0, "PNG"), "d og/ü ..jpg": photo(1)})
    assert load_split(str(tmp_path)).ids.tolist() == ["c..at/x...png", "d og/ü ..jpg"]
