"""Exporters: corpora in the formats that other tools read."""

from smile_synth.exporters._base import ExportOptions
from smile_synth.exporters._export import EXPORT_FORMATS, EXPORTERS, check_format, export, registry

__all__ = ["EXPORTERS", "EXPORT_FORMATS", "ExportOptions", "check_format", "export", "registry"]
