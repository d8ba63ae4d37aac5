"""A training that ends early, as when it is killed, and what it logged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from smile_train.training.logging import read_log


class Stop(Exception):
    pass


def stop_after(step: int) -> Callable[[dict[str, Any]], None]:
    def stop(line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise Stop

    return stop


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder)]
