"""Backgrounds: where the textures of rearmost layers come from."""

from smile_synth.backgrounds._drawn import write_pictures
from smile_synth.backgrounds._images import ImageFolder

__all__ = ["ImageFolder", "write_pictures"]
