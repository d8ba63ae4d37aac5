"""Corpora on disk: writing, resuming, reading, checking and mending."""

from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._generate import CorpusSummary, Progress, generate
from smile_synth.corpus._header import LAYOUTS, CorpusHeader
from smile_synth.corpus._labels import KINDS, labels_to_json
from smile_synth.corpus._media import DEFAULT_QUALITY, MEDIA, image_bytes, npz_bytes, write_mp4
from smile_synth.corpus._verify import (
    Fault,
    RepairReport,
    convert,
    extend,
    merge,
    regenerate,
    repair,
    verify,
)
from smile_synth.io.atomic import held, sweep, write_bytes

__all__ = [
    "DEFAULT_QUALITY",
    "KINDS",
    "LAYOUTS",
    "MEDIA",
    "Corpus",
    "CorpusHeader",
    "CorpusSummary",
    "Fault",
    "Progress",
    "RepairReport",
    "convert",
    "extend",
    "generate",
    "held",
    "labels_to_json",
    "merge",
    "npz_bytes",
    "image_bytes",
    "regenerate",
    "repair",
    "sweep",
    "verify",
    "write_bytes",
    "write_mp4",
]
