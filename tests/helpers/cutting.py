"""Images on disk, and cut-outs of the items that a reader lists."""

import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from smile_synth.io.images import Reject
from smile_synth.objects._item import CutOut, Item


def save(path: Path, rgba: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(path, **options)


def cut_all(items: Iterable[Item]) -> tuple[list[CutOut], dict[str, str]]:
    """Return the cut-outs of items as worker processes receive them, and the reasons of rejected ones by name."""
    cut_outs, rejected = [], {}
    for item in pickle.loads(pickle.dumps(list(items))):
        try:
            for found in item.cut():
                if isinstance(found, CutOut):
                    cut_outs.append(found)
                else:
                    rejected[found.source] = found.reason
        except Reject as reason:
            rejected[item.source] = str(reason)
    return cut_outs, rejected
