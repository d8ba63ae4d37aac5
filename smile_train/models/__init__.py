"""The networks: students that learn and what they learn from."""

from smile_train.models._student import (
    STUDENT_SIZES,
    Encoder,
    Student,
    StudentConfig,
    Tokens,
    VideoClassifier,
    load_student_weights,
    pick_tokens,
    split_tokens,
)
from smile_train.models._teacher import LOCAL, TINY_CLIP, Teacher, load_clip, load_teacher
from smile_train.models._token_cache import TokenCache
from smile_train.models._weights import read_tensors, why_unreadable

__all__ = [
    "LOCAL",
    "TINY_CLIP",
    "STUDENT_SIZES",
    "Encoder",
    "Student",
    "StudentConfig",
    "Teacher",
    "TokenCache",
    "Tokens",
    "VideoClassifier",
    "load_clip",
    "load_student_weights",
    "load_teacher",
    "pick_tokens",
    "read_tensors",
    "split_tokens",
    "why_unreadable",
]
