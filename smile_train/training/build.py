"""Build the parts of a pretraining run from its configuration."""

from __future__ import annotations

from dataclasses import replace

import torch

from smile_synth.core.errors import UserError
from smile_train.config import PretrainConfig
from smile_train.masking import Masker
from smile_train.models import (
    Student,
    StudentConfig,
    Teacher,
    find_encoder,
    load_student_weights,
    load_teacher,
    set_motion_energy_filters,
)
from smile_train.targets import Targets

CONFIG = "config.yaml"  # in a run's folder


def build_teacher(config: PretrainConfig, size_hw: tuple[int, int]) -> Teacher | None:
    """Return the frozen teacher, or None where no target needs one.

    Raises:
        UserError: its weights are not available, or its tokens do not match the student's.
    """
    if all(target.kind != "teacher" for target in config.targets):
        return None
    return load_teacher(
        config.teacher, size_hw=size_hw, patch_size=config.student.patch_size,
        tubelet_size=config.student.tubelet_size,
    )  # fmt: skip


def build_targets(config: PretrainConfig, teacher: Teacher | None) -> Targets:
    """Return what the student predicts."""
    return Targets(
        config.targets, patch_size=config.student.patch_size, tubelet_size=config.student.tubelet_size,
        teacher=teacher, tokens=config.predicted_tokens, motion_offsets=config.motion_offsets,
        visible_weight=config.visible_weight,
    )  # fmt: skip


def build_student(
    config: PretrainConfig, size_hw: tuple[int, int], num_frames: int, targets: Targets
) -> Student:
    """Return the student with its initial weights: those of ``start_from``, or drawn from the seed.

    Raises:
        UserError: tubelet and patch do not divide the clips, a target has an encoder block that the student
            does not have, or the weights do not fit the student.
    """
    student_config = StudentConfig.from_options(
        config.student, num_frames=num_frames, size_hw=size_hw, target_dim=targets.shared_width
    )
    try:
        student_config = replace(
            student_config, own_target_dims=targets.own_widths, encoder_blocks=targets.encoder_blocks
        )
    except ValueError as error:
        raise UserError(f"targets: {error}") from None
    generator = torch.Generator().manual_seed(config.seed)
    student = Student(student_config, generator=generator)
    if config.student.patch_filters == "motion-energy":
        set_motion_energy_filters(student.encoder, generator)
    if config.start_from is not None:
        load_student_weights(student, config.start_from)
    return student


def find_absolute(start_from: str | None) -> str | None:
    """Return the absolute path of initial weights; those of a shipped encoder are found by name."""
    return None if start_from is None else str(find_encoder(start_from).resolve())


def build_masker(config: PretrainConfig, stage: int, student: StudentConfig) -> Masker:
    """Return the masker of a stage; raises as `Masker`."""
    return Masker(
        config.resolved_stages[stage].mask, student.grid_thw, patch_size=config.student.patch_size,
        tubelet_size=config.student.tubelet_size, seed=config.seed, motion_offsets=config.motion_offsets,
    )  # fmt: skip
