"""Every random draw: a recipe and sources become scenes."""

from smile_synth.sampling._sample import sample_scene, sample_scenes

__all__ = ["sample_scene", "sample_scenes"]
