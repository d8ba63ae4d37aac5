"""Evaluation: frozen features, linear probes with their controls, embeddings of real videos."""

from smile_train.evaluate._features import (
    color_statistics,
    encode_clips,
    encode_tokens,
    frame_means,
    tokens_in_place,
)
from smile_train.evaluate._motion import TASKS, MotionExamination, ProbeRow, examine_motion, format_interval
from smile_train.evaluate._probe import ProbeScore, difference_interval, linear_probe
from smile_train.evaluate._videos import EmbedReport, embed_videos, find_videos, read_windows

__all__ = [
    "TASKS",
    "EmbedReport",
    "MotionExamination",
    "ProbeRow",
    "ProbeScore",
    "color_statistics",
    "difference_interval",
    "embed_videos",
    "encode_clips",
    "encode_tokens",
    "examine_motion",
    "find_videos",
    "format_interval",
    "frame_means",
    "linear_probe",
    "read_windows",
    "tokens_in_place",
]
