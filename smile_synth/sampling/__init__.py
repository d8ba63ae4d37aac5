"""Sample scenes from a recipe and sources. All random choices of a scene are made here."""

from smile_synth.sampling._sample import sample_scene, sample_scenes

__all__ = ["sample_scene", "sample_scenes"]
