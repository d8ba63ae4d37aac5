"""Lists of files as many tools write them: every odd line is read, or refused with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from smile_synth import UserError
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.io.lists import listed_files, read_rows
from smile_synth.io.notices import Notice

SUFFIXES = (".mp4", ".avi", ".jpg")


def rows(folder: Path, content: str | bytes) -> list[tuple[str, str]]:
    """Return (path, label) of the entries of a list with this content."""
    file = folder / "list.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(row.path, row.label) for row in read_rows(file, SUFFIXES)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.mp4 3", ("a.mp4", "3")),
        ("a.mp4,3", ("a.mp4", "3")),
        ("a.mp4\t3", ("a.mp4", "3")),
        ("a.mp4;3", ("a.mp4", "3")),
        ("a.mp4   3  ", ("a.mp4", "3")),
        ("a.mp4, 3,", ("a.mp4", "3")),
        ("a.mp4", ("a.mp4", "")),
        ("sub dir/x 1.AVI 7", ("sub dir/x 1.AVI", "7")),
        ("putting a, b and c/x0.mp4 0", ("putting a, b and c/x0.mp4", "0")),
        ("putting a, b/x0.mp4,0", ("putting a, b/x0.mp4", "0")),
        ('"putting a, b/x0.mp4",0', ("putting a, b/x0.mp4", "0")),
        ('"say ""a, b""/x.mp4",0', ('say "a, b"/x.mp4', "0")),
        ('"no suffix, here" 4', ("no suffix, here", "4")),
        ("'single quotes/x.mp4' 4", ("single quotes/x.mp4", "4")),
        ("'til dawn.mp4 3", ("'til dawn.mp4", "3")),
        ('a.mp4,"putting a, b"', ("a.mp4", "putting a, b")),
        ("a.mp4 playing guitar", ("a.mp4", "playing guitar")),
        ("a.mp4,playing guitar", ("a.mp4", "playing guitar")),
        ("a.mp4,120,playing guitar", ("a.mp4", "playing guitar")),
        ("a.mp4 120 5", ("a.mp4", "5")),
        ("rawframes/v_1 120 5", ("rawframes/v_1", "5")),
        ("rawframes/v_1 0 120 5", ("rawframes/v_1", "5")),
        ("rawframes/putting a, b/v_1,120,5", ("rawframes/putting a, b/v_1", "5")),
        ("34870 5", ("34870", "5")),
        ("34870;Drumming Fingers; twice", ("34870", "Drumming Fingers; twice")),
        ("frames of a day/v_1", ("frames of a day/v_1", "")),
        ("a.mp4 0 -1", ("a.mp4", "")),
        ("a.mp4 3.0", ("a.mp4", "3")),
        ("a.mp4 007", ("a.mp4", "7")),
        ("été/ä.mp4 1", ("été/ä.mp4", "1")),
        ("C:\\videos\\a.mp4 1", ("C:\\videos\\a.mp4", "1")),
        ("a.mp4.avi 1", ("a.mp4.avi", "1")),
    ],
)
def test_lines_without_names_of_columns(tmp_path: Path, line: str, expected: tuple[str, str]) -> None:
    assert rows(tmp_path, f"{line}\n") == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,label\na.mp4,0\nb.mp4,1\n", [("a.mp4", "0"), ("b.mp4", "1")]),
        ("label\tpath\n0\ta b.mp4\n", [("a b.mp4", "0")]),
        ("path label\na b.mp4 0\n", [("a b.mp4", "0")]),
        (",video_path,label\n0,a.mp4,jump\n1,b.mp4,run\n", [("a.mp4", "jump"), ("b.mp4", "run")]),
        ('"label";"path"\n"a; b";"x.mp4"\n', [("x.mp4", "a; b")]),
        ("clip_name,clip_path,label\nv_1,run/v_1.avi,run\n", [("run/v_1.avi", "run")]),
        ("video_id,label,frames,label_id\n348,Drumming,37,5\n", [("348", "Drumming")]),
        ('"label","youtube_id","time_start"\n"a, b","abc","1"\n', [("abc", "a, b")]),
        ("path,label\na, b.mp4,0\n", [("a, b.mp4", "0")]),
        ("path\na.mp4\n\n", [("a.mp4", "")]),
        ("# made on Monday\npath,label\n\na.mp4,0\n", [("a.mp4", "0")]),
    ],
)
def test_tables_with_names_of_columns(tmp_path: Path, content: str, expected: list[tuple[str, str]]) -> None:
    assert rows(tmp_path, content) == expected


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffa.mp4 0\nb.mp4 1\n".encode(),
        "a.mp4 0\nb.mp4 1\n".encode("utf-16"),
        b"a.mp4 0\r\n\r\nb.mp4 1\r\n",
        b"a.mp4 0\rb.mp4 1",
        b"# comment\na.mp4 0\n  b.mp4 1",
    ],
)
def test_encodings_and_ends_of_lines(tmp_path: Path, data: bytes) -> None:
    assert rows(tmp_path, data) == [("a.mp4", "0"), ("b.mp4", "1")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "list '.*list.txt': is empty"),
        (b"\n# nothing\n", "is empty"),
        (b"path,label\n", "is empty below its first line"),
        (b"a.mp4 0\nb\xe9.mp4 1\n", "line 2 is not UTF-8"),
        (b"\0\0\0\x18ftypmp42", "cannot be read as text"),
        (b"label,path,split\n0,a, b.mp4,1,2\n", "list.txt:2: has 5 columns, the first line has 3"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        rows(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('# c\nlabel,path\n"two\nlines",a.mp4\n\n1,b.mp4\n')
    found = read_rows(tmp_path / "list.csv", SUFFIXES)
    assert [(row.line, row.label) for row in found] == [(4, "two\nlines"), (6, "1")]
    assert found[1].columns == {"label": "1", "path": "b.mp4"}


def test_backslashes_are_slashes_where_only_that_file_exists(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.mp4").touch()
    (tmp_path / "y\\b.mp4").touch()
    names = ["x\\a.mp4", "y\\b.mp4", "gone\\c.mp4", "x/a.mp4"]
    assert listed_files(tmp_path / "list.txt", tmp_path, names, [".mp4"]) == [
        "x/a.mp4",
        "y\\b.mp4",
        "gone\\c.mp4",
        "x/a.mp4",
    ]


def test_absolute_paths_of_another_machine_are_found_by_their_ends(tmp_path: Path) -> None:
    for name in ("run/a.mp4", "walk/a.mp4", "walk/b c.mp4", "walk/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    here = str(tmp_path / "run" / "a.mp4")
    names = [
        "/data/x/walk/a.mp4",
        "D:\\x\\B c.mp4",
        "/data/x/jump/z.mp4",
        here,
        "/x/walk/notes.txt",
        "gone.mp4",
    ]
    with pytest.warns(Notice, match="list.txt': 2 files found by the end of the name, first '/data/x/walk/a"):
        found = listed_files(tmp_path / "list.txt", tmp_path, names, [".mp4"])
    assert found == ["walk/a.mp4", "walk/b c.mp4", *names[2:]]
    # Two files end with it; and a list of this machine whose other files are missing.
    for others in (["/data/a.mp4"], [here, "/data/x/walk/a.mp4"]):
        assert listed_files(tmp_path / "list.txt", tmp_path, others, [".mp4"]) == others


def test_lists_of_another_machine_are_backgrounds(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (5, 3), (9, 8, 7)).save(tmp_path / "photos" / "1.png")
    (tmp_path / "list.txt").write_text("/home/you/photos/1.png\n")
    with pytest.warns(Notice, match="1 file found by the end"):
        folder = BackgroundFolder(tmp_path / "list.txt")
    assert folder.files == [tmp_path / "photos" / "1.png"]
