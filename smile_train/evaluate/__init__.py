"""Evaluation: frozen features of real videos and of synthetic motion, read off beside their controls."""

from smile_train.data.video import FileFacts, ReadOptions, ViewOptions, file_facts, read_windows
from smile_train.data.video_lists import (
    LabelledVideo,
    Split,
    check_split,
    find_videos,
    k_fold,
    leave_one_group_out,
    low_shot,
    read_hmdb,
    read_official,
    read_videos,
    select_classes,
)
from smile_train.evaluate._controls import flow_histograms, size_and_length
from smile_train.evaluate._encoders import FrozenEncoder, LibraryEncoder, VideoEncoder, load_encoder
from smile_train.evaluate._evaluate import (
    EvaluateOptions,
    ScoreRow,
    VideoEvaluation,
    compare_evaluations,
    evaluate_videos,
)
from smile_train.evaluate._extract import EncoderFeature, Extracted, Feature, extract
from smile_train.evaluate._features import (
    color_statistics,
    encode_tokens,
    frame_means,
    tokens_in_place,
)
from smile_train.evaluate._motion import (
    FACTORS,
    TASKS,
    MotionExam,
    MotionExamination,
    ProbeRow,
    Task,
    all_controls,
    examine_motion,
    format_interval,
)
from smile_train.evaluate._probe import ProbeScore, difference_interval, linear_probe
from smile_train.evaluate._protocols import attentive, knn, linear, retrieval
from smile_train.evaluate._scores import Difference, group_interval, paired_difference
from smile_train.evaluate._videos import EmbedReport, embed_videos, read_embeddings
from smile_train.training.finetune import FinetuneOptions, finetune

__all__ = [
    "FACTORS",
    "TASKS",
    "Difference",
    "EmbedReport",
    "EncoderFeature",
    "EvaluateOptions",
    "Extracted",
    "Feature",
    "FileFacts",
    "FinetuneOptions",
    "FrozenEncoder",
    "LabelledVideo",
    "LibraryEncoder",
    "MotionExam",
    "MotionExamination",
    "ProbeRow",
    "ProbeScore",
    "ReadOptions",
    "ScoreRow",
    "Split",
    "Task",
    "VideoEncoder",
    "VideoEvaluation",
    "ViewOptions",
    "all_controls",
    "attentive",
    "check_split",
    "color_statistics",
    "compare_evaluations",
    "difference_interval",
    "embed_videos",
    "encode_tokens",
    "evaluate_videos",
    "examine_motion",
    "extract",
    "file_facts",
    "find_videos",
    "finetune",
    "flow_histograms",
    "format_interval",
    "frame_means",
    "group_interval",
    "k_fold",
    "knn",
    "leave_one_group_out",
    "linear",
    "linear_probe",
    "load_encoder",
    "low_shot",
    "paired_difference",
    "read_embeddings",
    "read_hmdb",
    "read_official",
    "read_videos",
    "read_windows",
    "retrieval",
    "select_classes",
    "size_and_length",
    "tokens_in_place",
]
