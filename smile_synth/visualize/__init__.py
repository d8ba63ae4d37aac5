"""Pictures of clips and banks: contact sheets and overlays, as arrays."""

from smile_synth.visualize._objects import object_sheet
from smile_synth.visualize._pictures import COLORS, contact_sheet, draw_labels, film_strip

__all__ = ["COLORS", "contact_sheet", "draw_labels", "film_strip", "object_sheet"]
