"""Segmented objects: banks of cut-outs, and the readers that fill them."""

from smile_synth.objects._bank import ObjectBank, ObjectInfo, Selection, read_header
from smile_synth.objects._build import BuildReport, build_bank
from smile_synth.objects._cut_out import CutOutOptions
from smile_synth.objects._manage import export_bank, merge_banks
from smile_synth.objects.readers import FORMATS

__all__ = [
    "FORMATS",
    "BuildReport",
    "CutOutOptions",
    "ObjectBank",
    "ObjectInfo",
    "Selection",
    "build_bank",
    "export_bank",
    "merge_banks",
    "read_header",
]
