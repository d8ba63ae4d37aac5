"""Segmented objects: banks of cut-outs, and the readers that fill them."""

from smile_synth.objects._bank import ObjectBank, ObjectInfo
from smile_synth.objects._build import BuildReport, build_bank

__all__ = ["BuildReport", "ObjectBank", "ObjectInfo", "build_bank"]
