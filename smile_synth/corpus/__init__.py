"""Corpora on disk: write, continue, read, verify, repair and merge."""

from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._generate import CorpusOptions, CorpusSummary, Progress, generate
from smile_synth.corpus._header import LAYOUTS, CorpusHeader
from smile_synth.corpus._labels import KINDS, labels_to_json
from smile_synth.corpus._manifest import MANIFEST
from smile_synth.corpus._media import MEDIA, image_bytes, npz_bytes
from smile_synth.corpus._merge import convert, merge
from smile_synth.corpus._repair import RepairReport, repair
from smile_synth.corpus._verify import Fault, verify

__all__ = [
    "KINDS",
    "LAYOUTS",
    "MANIFEST",
    "MEDIA",
    "Corpus",
    "CorpusHeader",
    "CorpusOptions",
    "CorpusSummary",
    "Fault",
    "Progress",
    "RepairReport",
    "convert",
    "generate",
    "image_bytes",
    "labels_to_json",
    "merge",
    "npz_bytes",
    "repair",
    "verify",
]
