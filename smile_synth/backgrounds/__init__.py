"""Backgrounds: images, videos, noise and textures for the rearmost layer."""

from smile_synth.backgrounds._folder import BackgroundFolder
from smile_synth.backgrounds._textures import generated_texture, write_images
from smile_synth.io.videos import VideoInfo

__all__ = ["BackgroundFolder", "VideoInfo", "generated_texture", "write_images"]
