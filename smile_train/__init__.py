"""smile_train: CLIP-guided masked pretraining on animated clips, and what was learned."""

from smile_train.checkpoint import load_student
from smile_train.config import PretrainConfig
from smile_train.models import Student, StudentConfig, load_teacher
from smile_train.pretrain import pretrain

__all__ = ["PretrainConfig", "Student", "StudentConfig", "load_student", "load_teacher", "pretrain"]
