"""A sheet of the objects of a bank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from smile_synth.objects import ObjectBank

UInt8 = NDArray[np.uint8]
_CAPTION = 16


def object_sheet(
    bank: ObjectBank,
    object_ids: Sequence[int] | NDArray[np.int64],
    *,
    background: UInt8 | tuple[int, int, int] = (255, 255, 255),
    side: int = 128,
    columns: int = 8,
    captions: bool = True,
) -> UInt8:
    """Draw objects in rows of equal cells, each scaled to fit its cell.

    Args:
        bank: the bank.
        object_ids: objects in order.
        background: an RGB colour, or an image ``[H, W, 3]`` uint8 whose middle fills every cell.
        side: of a cell in pixels; smaller objects are enlarged, at most fourfold.
        columns: cells in a row.
        captions: write number and class below each object.

    Returns:
        An image ``[H, W, 3]`` uint8.

    Raises:
        ValueError: no objects.
    """
    if not len(object_ids):
        raise ValueError("an object sheet needs at least one object")
    columns = min(columns, len(object_ids))
    cell_height = side + (_CAPTION if captions else 0)
    rows = -(-len(object_ids) // columns)
    sheet = Image.new("RGB", (columns * side, rows * cell_height), (245, 245, 245))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10.5)
    cell = _cell(background, side)
    for place, object_id in enumerate(object_ids):
        x, y = place % columns * side, place // columns * cell_height
        sheet.paste(Image.fromarray(_fitted(bank, int(object_id), cell)), (x, y))
        if captions:
            name = bank.class_names[int(bank.class_ids[object_id])]
            text = _shortened(f"{object_id} {name}", font, side - 4)
            draw.text((x + 2, y + side + 1), text, (60, 60, 60), font)
    return np.asarray(sheet)


def _cell(background: UInt8 | tuple[int, int, int], side: int) -> UInt8:
    if isinstance(background, tuple):
        return np.full((side, side, 3), background, np.uint8)
    image = Image.fromarray(background)
    shortest = min(image.size)
    left, top = (image.width - shortest) // 2, (image.height - shortest) // 2
    middle = image.crop((left, top, left + shortest, top + shortest))
    return np.asarray(middle.resize((side, side), Image.Resampling.LANCZOS))


def _fitted(bank: ObjectBank, object_id: int, cell: UInt8) -> UInt8:
    side = len(cell)
    texture = bank.texture(object_id)
    scale = min((side - 4) / max(texture.height, texture.width), 4.0)
    height, width = (max(1, round(length * scale)) for length in (texture.height, texture.width))
    # Premultiplied channels can be resized separately.
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR), np.float64)
        for plane in np.moveaxis(texture.level(0), -1, 0)
    ]
    color, alpha = np.dstack(planes[:3]), planes[3][..., None] / 255.0
    out = cell.copy()
    y, x = (side - height) // 2, (side - width) // 2
    window = out[y : y + height, x : x + width]
    window[:] = np.clip(np.floor(color + window * (1 - alpha) + 0.5), 0, 255)
    return out


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
