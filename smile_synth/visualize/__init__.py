"""Images of clips, banks, corpora and recipes: sheets, overlays, charts, statistics, pages."""

from smile_synth.visualize._charts import line_chart
from smile_synth.visualize._compare import distribution_distance, make_comparison
from smile_synth.visualize._curves import motion_curves
from smile_synth.visualize._gallery import make_gallery
from smile_synth.visualize._health import Finding, find_problems
from smile_synth.visualize._measure import ClipMeasure, measure
from smile_synth.visualize._media import COLORS, contact_sheet, frame_strip, mp4_uri, png_uri, save_clip
from smile_synth.visualize._notebook import bank_html, clip_html, recipe_html, scene_html
from smile_synth.visualize._objects import object_sheet
from smile_synth.visualize._overlay import (
    OVERLAYS,
    check_overlays,
    draw_arrows,
    flow_colors,
    overlay,
    track_queries,
)
from smile_synth.visualize._page import page_environment
from smile_synth.visualize._report import Report, make_report, measure_source
from smile_synth.visualize._source import CorpusSource, RecipeSource, Source, open_corpus
from smile_synth.visualize._statistics import RecipeCheck, check_recipe, summarise
from smile_synth.visualize._stored import StoredLabels

__all__ = [
    "COLORS",
    "ClipMeasure",
    "CorpusSource",
    "Finding",
    "OVERLAYS",
    "RecipeCheck",
    "RecipeSource",
    "Report",
    "Source",
    "StoredLabels",
    "bank_html",
    "check_overlays",
    "check_recipe",
    "clip_html",
    "contact_sheet",
    "distribution_distance",
    "draw_arrows",
    "find_problems",
    "flow_colors",
    "frame_strip",
    "line_chart",
    "make_comparison",
    "make_gallery",
    "make_report",
    "measure",
    "measure_source",
    "motion_curves",
    "mp4_uri",
    "object_sheet",
    "open_corpus",
    "overlay",
    "page_environment",
    "png_uri",
    "recipe_html",
    "save_clip",
    "scene_html",
    "summarise",
    "track_queries",
]
