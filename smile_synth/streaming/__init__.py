"""Clips for training, made when they are needed: a map-style dataset and an infinite stream of batches.

A clip depends on (recipe, sources, seed, index) only. Any order and any number of processes give the same
clips, and a run resumes at any step without stored state.
"""

from smile_synth.streaming._batches import StreamBatch
from smile_synth.streaming._clips import StepBatches, SyntheticClips, batch_indices, collate_clips
from smile_synth.streaming._labels import motion_labels, token_coverage
from smile_synth.streaming._stream import ClipStream, StreamOptions, stream

__all__ = [
    "ClipStream",
    "StepBatches",
    "StreamBatch",
    "StreamOptions",
    "SyntheticClips",
    "batch_indices",
    "collate_clips",
    "motion_labels",
    "stream",
    "token_coverage",
]
