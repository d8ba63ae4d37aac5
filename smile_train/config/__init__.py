"""Typed run configurations: the strict form of the YAML files in configs/train/."""

from smile_train.config._presets import load_config
from smile_train.config._pretrain import PretrainConfig, SourceOptions, Stage, StageOptions, check_schedule
from smile_train.config._shared import (
    CHANGEABLE,
    Count,
    Fraction,
    MaskOptions,
    NonNegative,
    OptimiserOptions,
    Options,
    PixelTarget,
    Positive,
    RunOptions,
    StudentOptions,
    TargetOptions,
    TeacherOptions,
    TeacherTarget,
    Whole,
    fixed_values,
)
from smile_train.config._teacher import TeacherTrainingConfig
from smile_train.config._video import AugmentationOptions, CropOptions, SamplingOptions, VideoOptions

__all__ = [
    "CHANGEABLE",
    "AugmentationOptions",
    "Count",
    "CropOptions",
    "Fraction",
    "MaskOptions",
    "NonNegative",
    "OptimiserOptions",
    "Options",
    "PixelTarget",
    "Positive",
    "PretrainConfig",
    "RunOptions",
    "SamplingOptions",
    "SourceOptions",
    "Stage",
    "StageOptions",
    "StudentOptions",
    "TargetOptions",
    "TeacherOptions",
    "TeacherTarget",
    "TeacherTrainingConfig",
    "VideoOptions",
    "Whole",
    "check_schedule",
    "fixed_values",
    "load_config",
]
