"""Pictures of clips, banks and motion: contact sheets, overlays, curves over time, the atlas; as arrays."""

from smile_synth.visualize._atlas import atlas
from smile_synth.visualize._curves import motion_curves
from smile_synth.visualize._objects import object_sheet
from smile_synth.visualize._pictures import COLORS, contact_sheet, draw_labels, film_strip

__all__ = ["COLORS", "atlas", "contact_sheet", "draw_labels", "film_strip", "motion_curves", "object_sheet"]
