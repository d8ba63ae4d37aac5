"""Evaluation of frozen encoders on labelled real videos and on synthetic motion, with controls."""

from smile_train.evaluate._attentive import attentive
from smile_train.evaluate._dense import DenseOptions, DenseResult, DenseRow, probe_dense
from smile_train.evaluate._dense_readouts import (
    TokenGrid,
    fit_displacement,
    match_points,
    read_displacement,
    tapvid_accuracy,
    token_displacement,
    token_flow,
)
from smile_train.evaluate._embed import EmbedReport, embed_videos, read_embeddings
from smile_train.evaluate._encoders import FrozenEncoder, LibraryEncoder, VideoEncoder
from smile_train.evaluate._evaluate import EvaluateOptions, evaluate_videos
from smile_train.evaluate._extract import Extracted, Extractor
from smile_train.evaluate._features import (
    CONTROLS,
    Feature,
    color_statistics,
    encoder_feature,
    flow_histograms,
    frame_means,
    metadata,
    tokens_in_place,
)
from smile_train.evaluate._load import load_encoder
from smile_train.evaluate._motion import (
    MotionProbe,
    MotionProbeResult,
    ProbeRow,
    format_interval,
    motion_controls,
    probe_motion,
)
from smile_train.evaluate._motion_clips import MotionProbeOptions, ProbeClips
from smile_train.evaluate._motion_tasks import DEMO_TASKS, MOTION_TASKS, MotionTask
from smile_train.evaluate._readouts import knn, linear, retrieval
from smile_train.evaluate._results import ScoreRow, VideoEvaluation, compare_evaluations
from smile_train.evaluate._statistics import Difference, bootstrap_interval, effective_rank, paired_difference
from smile_train.evaluate._temporal import TEMPORAL, variants_feature

__all__ = [
    "CONTROLS",
    "DEMO_TASKS",
    "MOTION_TASKS",
    "TEMPORAL",
    "DenseOptions",
    "DenseResult",
    "DenseRow",
    "Difference",
    "EmbedReport",
    "EvaluateOptions",
    "Extracted",
    "Extractor",
    "Feature",
    "FrozenEncoder",
    "LibraryEncoder",
    "MotionProbe",
    "MotionProbeOptions",
    "MotionProbeResult",
    "MotionTask",
    "ProbeClips",
    "ProbeRow",
    "ScoreRow",
    "TokenGrid",
    "VideoEncoder",
    "VideoEvaluation",
    "attentive",
    "bootstrap_interval",
    "color_statistics",
    "compare_evaluations",
    "effective_rank",
    "embed_videos",
    "encoder_feature",
    "evaluate_videos",
    "fit_displacement",
    "flow_histograms",
    "format_interval",
    "frame_means",
    "knn",
    "linear",
    "load_encoder",
    "match_points",
    "metadata",
    "motion_controls",
    "paired_difference",
    "probe_dense",
    "probe_motion",
    "read_displacement",
    "read_embeddings",
    "retrieval",
    "tapvid_accuracy",
    "token_displacement",
    "token_flow",
    "tokens_in_place",
    "variants_feature",
]
