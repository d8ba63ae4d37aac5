"""Image files with odd metadata and with more than 8 bits: the pixels are used."""

import io
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from smile_synth.backgrounds import BackgroundFolder
from smile_synth.io.images import Reject, decode_rgb, load_rgba
from smile_synth.objects import build_bank, preview_sources

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def encoded(pixels: np.ndarray, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def png_with(name: bytes, content: bytes, *, last: bool = False) -> bytes:
    """A PNG file with a chunk after its header, or before its end."""
    data = encoded(RGB, "PNG")
    chunk = len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
    place = len(data) - 12 if last else 33
    return data[:place] + chunk + data[place:]


def with_exif(content: bytes) -> bytes:
    """A JPEG file with an EXIF segment of any bytes."""
    data = encoded(RGB, "JPEG", quality=95)
    segment = b"Exif\0\0" + content
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


LARGE = zlib.compress(b"\0" * (PngImagePlugin.MAX_TEXT_CHUNK + 9))
ENTRY = b"\x01\x12"
ODD: dict[str, bytes] = {
    "large compressed text": png_with(b"zTXt", b"key\0\0" + LARGE),
    "large text at the end": png_with(b"zTXt", b"key\0\0" + LARGE, last=True),
    "large international text": png_with(b"iTXt", b"key\0\1\0\0\0" + LARGE),
    "large colour profile": png_with(b"iCCP", b"key\0\0" + LARGE),
    "damaged colour profile": png_with(b"iCCP", b"key\0\0damaged"),
    "damaged EXIF of PNG": png_with(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "EXIF without content": with_exif(b""),
    "EXIF of noise": with_exif(b"MM\0*\0\0\0\x08" + bytes(range(200))),
    "EXIF that ends early": with_exif(b"MM\0*\0\0\0\x08\0\x05" + ENTRY),
    "orientation 0": with_exif(b"MM\0*\0\0\0\x08\0\x01" + ENTRY + b"\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0"),
    "orientation 9": with_exif(b"MM\0*\0\0\0\x08\0\x01" + ENTRY + b"\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0"),
    "orientation as text": with_exif(b"MM\0*\0\0\0\x08\0\x01" + ENTRY + b"\0\x02\0\0\0\x026\0\0\0\0\0\0\0"),
    "orientation as fraction": with_exif(
        b"MM\0*\0\0\0\x08\0\x01" + ENTRY + b"\0\x05\0\0\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\x06\0\0\0\0"
    ),
}


@pytest.mark.filterwarnings("ignore:.*EXIF.*:UserWarning")
@pytest.mark.parametrize("name", ODD)
def test_pixels_of_images_with_odd_metadata_are_used(name: str) -> None:
    plain = RGB if ODD[name][1:4] == b"PNG" else decode_rgb(encoded(RGB, "JPEG", quality=95)).rgb
    np.testing.assert_array_equal(decode_rgb(ODD[name]).rgb, plain)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_beside_entries_that_cannot_be_written(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(RGB, "PNG", exif=exif)
    expected = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1),
        6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(decode_rgb(data).rgb, expected)
    alpha = encoded(np.dstack([RGB, RGB[..., :1]]), "PNG", exif=exif)
    np.testing.assert_array_equal(load_rgba(alpha)[..., :3], expected)


def test_damaged_pixels_are_still_rejected() -> None:
    for data in (encoded(RGB, "PNG")[:60], png_with(b"zTXt", b"key\0\0" + LARGE)[:-30]):
        with pytest.raises(Reject, match="damaged image|not an image"):
            decode_rgb(data)


LEVELS = np.array([[0, 1024, 2048, 4095], [16, 32, 48, 64]])
HIGH_BYTES = np.array([[0, 64, 128, 255], [1, 2, 3, 4]])


def tiff(values: np.ndarray) -> bytes:
    return encoded(values, "TIFF")


def colour(values: np.ndarray, suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, np.dstack([values // 2, values, values]))[1])


DEEP: dict[str, tuple[bytes, str]] = {
    "12 bits in 16": (tiff(LEVELS.astype(np.uint16)), "whole numbers of 12 bits"),
    "12 bits in 32": (tiff(LEVELS.astype(np.int32)), "whole numbers of 12 bits"),
    "10 bits": (tiff((LEVELS // 4).astype(np.uint16)), "whole numbers of 10 bits"),
    "14 bits": (tiff((LEVELS * 4).astype(np.uint16)), "whole numbers of 14 bits"),
    "16 bits": (tiff((LEVELS * 16).astype(np.uint16)), ""),
    "20 bits": (tiff((LEVELS * 256).astype(np.int32)), "whole numbers of 20 bits"),
    "31 bits": (tiff((LEVELS * 2**19).astype(np.int32)), "whole numbers of 31 bits"),
    "8 bits in 32": (tiff(HIGH_BYTES.astype(np.int32)), "whole numbers of 8 bits"),
    "floats 0..1": (tiff((HIGH_BYTES / 255).astype(np.float32)), "floats of 0..1"),
    "floats 0..255": (tiff(HIGH_BYTES.astype(np.float32)), ""),
    "floats 0..510": (tiff((HIGH_BYTES * 2).astype(np.float32)), "floats of 0..510"),
    "floats -1..1": (tiff((HIGH_BYTES / 127.5 - 1).astype(np.float32)), "floats of -1..1"),
    "16-bit PNG": (encoded((LEVELS * 16).astype(np.uint16), "PNG"), ""),
    "12-bit PNG": (encoded(LEVELS.astype(np.uint16), "PNG"), "whole numbers of 12 bits"),
    "12-bit colour TIFF": (colour(LEVELS.astype(np.uint16), ".tif"), "whole numbers of 12 bits"),
    "12-bit colour PNG": (colour(LEVELS.astype(np.uint16), ".png"), "whole numbers of 12 bits"),
    "16-bit colour PNG": (colour((LEVELS * 16).astype(np.uint16), ".png"), ""),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_scaled(name: str) -> None:
    data, scaled = DEEP[name]
    decoded = decode_rgb(data)
    assert decoded.scaled == scaled
    np.testing.assert_array_equal(decoded.rgb[..., 0], HIGH_BYTES)
    assert (decoded.rgb[..., 2] == HIGH_BYTES // (2 if "colour" in name else 1)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_black(value: float) -> None:
    values = np.array([[value, 0.5], [0.2, 1.0]], np.float32)
    assert decode_rgb(tiff(values)).rgb[..., 1].tolist() == [[0, 128], [51, 255]]


def test_scaled_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMILE_CACHE", str(tmp_path / "cache"))
    ramp = np.add.outer(np.arange(40), np.arange(40)).astype(np.uint16)
    inside = (np.abs(ramp.astype(int) - 39) < 9).astype(np.uint16)
    inside[:5] = inside[-5:] = inside[:, :5] = inside[:, -5:] = 0
    for folder, mask in (("images", ramp * 50), ("masks", inside)):
        (tmp_path / "a" / folder).mkdir(parents=True)
        (tmp_path / "a" / folder / "0.tif").write_bytes(tiff(mask))
    report = build_bank([tmp_path / "a"], tmp_path / "bank")
    assert report.notes == ("1 object from images of whole numbers of 12 bits, scaled to 8 bits",)
    backgrounds = BackgroundFolder(tmp_path / "a" / "images")
    assert backgrounds.scaled == [(tmp_path / "a" / "images" / "0.tif", "whole numbers of 12 bits")]
    assert preview_sources([tmp_path / "a"])[0].classes == {"a": 1}
