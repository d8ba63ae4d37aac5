"""Work on several processes: results in order, no process left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from smile_synth.core.errors import UserError, WorkerKilledError
from smile_synth.parallel.workers import Workers, available_cores, map_in_order


def scaled(factor: int, item: int) -> tuple[int, int]:
    time.sleep(0.05 * (item % 3 == 0))  # some take longer
    return item * factor, os.getpid()


def die(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def end_process(context: object, number: int) -> None:
    """End the worker by a signal, or without one."""
    if number:
        os.kill(os.getpid(), number)
    os._exit(0)


class Unreadable:
    """A context that pickles, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)


def divide(context: object, item: int) -> float:
    return 1 / (item - 3)


def test_results_come_in_order_from_several_processes() -> None:
    values, processes = zip(*map_in_order(partial(scaled, 7), range(30), workers=2), strict=True)
    assert values == tuple(range(0, 210, 7))
    assert os.getpid() not in processes
    alone = list(map_in_order(partial(scaled, 2), range(3), workers=1))
    assert alone == [(0, os.getpid()), (2, os.getpid()), (4, os.getpid())]


def test_a_killed_worker_is_reported_and_the_others_end() -> None:
    with pytest.raises(
        UserError, match="a worker process was killed by SIGKILL, perhaps because memory ran out"
    ):
        list(map_in_order(die, range(9), workers=2))


@pytest.mark.parametrize(("number", "how"), [(0, ""), (40, " by signal 40")])
def test_a_killed_worker_is_reported_without_a_name_of_the_signal(number: int, how: str) -> None:
    with (
        closing(Workers(1)) as pool,
        pytest.raises(WorkerKilledError, match=f"^a worker process was killed{how}, perhaps because"),
    ):
        pool.result(pool.submit(end_process, number))


def sleep(item: int) -> int:
    time.sleep(60 * item)
    return item


def test_running_tasks_do_not_delay_an_early_end() -> None:
    start = time.monotonic()
    results = map_in_order(sleep, range(9), workers=2)
    assert next(results) == 0
    assert isinstance(results, Generator)
    results.close()
    assert time.monotonic() - start < 50


@pytest.mark.slow
def test_an_exception_of_a_worker_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(partial(divide, None), range(9), workers=2))
    with pytest.raises(ValueError, match="invalid literal for int.*no number"):
        list(map_in_order(partial(divide, Unreadable()), range(9), workers=2))


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert available_cores() == 7


PARENT = """
import os, sys, time
from smile_synth.parallel.workers import map_in_order
def work(item):
    open(os.path.join(sys.argv[-1], str(os.getpid())), "w").close()
    time.sleep(0.02)
    return item
if __name__ == "__main__":
    for _ in map_in_order(work, range(10**6), workers=2):
        pass
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    seen = tmp_path / "seen"
    seen.mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", seen])
    deadline = time.monotonic() + 60
    while len(list(seen.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in seen.iterdir()]
    assert len(workers) == 2
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _large(context: None, num_bytes: int) -> bytes:
    return b"x" * num_bytes


def test_workers_that_are_killed_while_they_send_a_result_end_at_once() -> None:
    for _ in range(2):
        workers = Workers(2)
        futures = [workers.submit(_large, 40_000_000) for _ in range(6)]
        assert len(workers.result(futures[0])) == 40_000_000
        thread = threading.Thread(target=workers.close, kwargs={"at_once": True}, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 7),
        ({"cpu.max": "900000 100000\n"}, 7),
        ({"cpu.max": ""}, 7),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 7),
        ({}, 7),
    ],
)
def test_cores_follow_the_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == cores


@pytest.mark.slow
def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert list(map_in_order(abs, [-3, 4], workers=2)) == [3, 4]
