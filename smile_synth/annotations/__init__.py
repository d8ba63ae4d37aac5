"""Annotations: masks, boxes, visibility, flow and tracks of a scene. Analytic, no randomness."""

from __future__ import annotations

from smile_synth.annotations._annotation import Annotation, annotate, check_offsets
from smile_synth.annotations._queries import QUERY_KINDS, query_points

__all__ = ["QUERY_KINDS", "Annotation", "annotate", "check_offsets", "query_points"]
