"""Exporters: corpora in the formats that other tools read."""

from smile_synth.exporters._export import EXPORT_FORMATS, check_format, export

__all__ = ["EXPORT_FORMATS", "check_format", "export"]
