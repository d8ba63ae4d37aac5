"""Corpora on disk: write, continue, read, verify, repair and merge."""

from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._generate import CorpusOptions, CorpusSummary, Progress, generate
from smile_synth.corpus._header import LAYOUTS, CorpusHeader
from smile_synth.corpus._labels import KINDS, labels_bytes
from smile_synth.corpus._manifest import MANIFEST
from smile_synth.corpus._media import MEDIA, image_bytes, npz_bytes
from smile_synth.corpus._merge import merge, to_folder_layout
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
    "generate",
    "image_bytes",
    "labels_bytes",
    "merge",
    "npz_bytes",
    "repair",
    "to_folder_layout",
    "verify",
]
