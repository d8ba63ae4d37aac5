"""Annotations: masks, boxes, visibility, flow and tracks of a scene. Analytic, no randomness."""

from __future__ import annotations

from smile_synth.annotations._annotation import Annotation, annotate

__all__ = ["Annotation", "annotate"]
