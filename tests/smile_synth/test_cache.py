import os
import tempfile
from pathlib import Path

import pytest

from smile_synth.core.cache import cache_folder, cache_problem


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file where a folder is needed, as root can write everywhere, and a temporary folder."""
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    for name in ("SMILE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value", "folder"),
    [
        ("SMILE_CACHE", "new/deep", "new/deep"),
        ("XDG_CACHE_HOME", "new", "new/smile-video"),
        ("HOME", "home", "home/.cache/smile-video"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    places: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, folder: str
) -> None:
    monkeypatch.setenv(name, str(places / value))
    assert cache_folder() == places / folder and not cache_problem() and not (places / "new").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("SMILE_CACHE", "file"), ("SMILE_CACHE", "file/x"), ("XDG_CACHE_HOME", "file"), ("HOME", "file")],
)
def test_a_place_that_cannot_be_written_is_replaced(
    places: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, str(places / value))
    used = places / "tmp" / f"smile-video-{os.getuid()}"
    assert cache_folder() == used
    assert f"the cache is in '{used}'; set SMILE_CACHE" in cache_problem()
    used.write_text("nor here")
    assert "there is no cache" in cache_problem()


def test_a_user_without_a_home(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for an unknown user id
    assert cache_folder() == places / "tmp" / f"smile-video-{os.getuid()}"
