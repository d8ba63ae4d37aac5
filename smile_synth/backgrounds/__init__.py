"""Backgrounds: where the textures of rearmost layers come from."""

from smile_synth.backgrounds._drawn import drawn_texture, write_images
from smile_synth.backgrounds._folder import BackgroundFolder
from smile_synth.io.videos import VideoInfo

__all__ = ["BackgroundFolder", "VideoInfo", "drawn_texture", "write_images"]
