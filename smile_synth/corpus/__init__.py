"""Corpora on disk: writing, resuming, the manifest."""

from smile_synth.corpus._generate import CorpusSummary, generate, labels_to_json
from smile_synth.corpus._video import write_bytes, write_mp4

__all__ = ["CorpusSummary", "generate", "labels_to_json", "write_bytes", "write_mp4"]
