"""Segmented objects: banks of cut-outs, and the readers that fill them."""

from smile_synth.objects._bank import ObjectBank, ObjectInfo, Selection, read_header
from smile_synth.objects._build import HINTS, BuildReport, build_bank
from smile_synth.objects._cut_out import CutOutOptions
from smile_synth.objects._dry_run import SourcePreview, preview_sources
from smile_synth.objects._item import Rejected
from smile_synth.objects._manage import export_bank, merge_banks
from smile_synth.objects.readers import FORMATS

__all__ = [
    "FORMATS",
    "HINTS",
    "BuildReport",
    "CutOutOptions",
    "ObjectBank",
    "ObjectInfo",
    "Rejected",
    "Selection",
    "SourcePreview",
    "build_bank",
    "export_bank",
    "merge_banks",
    "preview_sources",
    "read_header",
]
