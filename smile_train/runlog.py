"""A run's log: one JSON object per line, cut back to the checkpoint when the run is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smile_synth.corpus import write_bytes

LOG = "log.jsonl"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line that was cut by a kill is left out."""
    path = folder / LOG
    lines: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class RunLog:
    """Appends lines; each is on its way to disk when `write` returns."""

    def __init__(self, folder: Path, *, keep_steps: int) -> None:
        """Drop what stands after step ``keep_steps``: it will be done again."""
        self._path = folder / LOG
        kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= keep_steps]
        write_bytes(self._path, "".join(kept).encode())

    def write(self, **values: Any) -> None:
        """Append one line."""
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")
