"""Pictures of clips: contact sheets and overlays, as arrays."""

from smile_synth.visualize._pictures import COLORS, contact_sheet, draw_labels, film_strip

__all__ = ["COLORS", "contact_sheet", "draw_labels", "film_strip"]
