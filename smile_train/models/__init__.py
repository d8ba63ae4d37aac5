"""The networks: students, video classifiers and teachers, and their files."""

from smile_train.models._classifier import VideoClassifier
from smile_train.models._clip import LOCAL, TINY_CLIP, load_clip
from smile_train.models._config import STUDENT_SIZES, ClassifierConfig, EncoderConfig, StudentConfig
from smile_train.models._encoder import Encoder, set_fused_attention
from smile_train.models._heads import AttentiveHead
from smile_train.models._motion_filters import motion_energy_filters, set_motion_energy_filters
from smile_train.models._student import Student, Tokens, pick_tokens, split_tokens
from smile_train.models._teacher import Teacher, load_teacher, make_teacher
from smile_train.models._tensors import check_finite, read_tensors, why_unreadable
from smile_train.models._transformers import to_transformers_config, to_transformers_names
from smile_train.models._weights import (
    CHECKPOINTS,
    CLASSIFIER,
    CLASSIFIER_AVERAGE,
    CLASSIFIER_BEST,
    STUDENT,
    STUDENT_AVERAGE,
    STUDENT_BEST,
    STUDENT_BEST_PROBE,
    build_classifier,
    build_encoder,
    find_encoder,
    load_model,
    load_student,
    load_student_weights,
    save_model,
    steps_of,
)

__all__ = [
    "CHECKPOINTS",
    "CLASSIFIER",
    "CLASSIFIER_AVERAGE",
    "CLASSIFIER_BEST",
    "LOCAL",
    "STUDENT",
    "STUDENT_AVERAGE",
    "STUDENT_BEST",
    "STUDENT_BEST_PROBE",
    "STUDENT_SIZES",
    "TINY_CLIP",
    "AttentiveHead",
    "ClassifierConfig",
    "Encoder",
    "EncoderConfig",
    "Student",
    "StudentConfig",
    "Teacher",
    "Tokens",
    "VideoClassifier",
    "build_classifier",
    "build_encoder",
    "find_encoder",
    "check_finite",
    "load_clip",
    "load_model",
    "load_student",
    "load_student_weights",
    "load_teacher",
    "make_teacher",
    "motion_energy_filters",
    "pick_tokens",
    "read_tensors",
    "save_model",
    "set_fused_attention",
    "set_motion_energy_filters",
    "split_tokens",
    "steps_of",
    "to_transformers_config",
    "to_transformers_names",
    "why_unreadable",
]
