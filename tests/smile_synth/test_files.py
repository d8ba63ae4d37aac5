import os
from pathlib import Path

from smile_synth.io.files import walk


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path) -> tuple[list[str], list[str]]:
    files, links = walk(folder)
    return [p.relative_to(folder).as_posix() for p in files], [
        p.relative_to(folder).as_posix() for p in links
    ]


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    top = tmp_path / "top"
    make(top, "b b/1 é.png", "c/2.png", "z.txt")
    make(tmp_path, "beside/3.png", "beside/deep/4.png")
    os.symlink("../c", top / "b b" / "to c")  # two folders that lead to each other
    os.symlink("../b b", top / "c" / "to b")
    os.symlink("c", top / "a")  # sorted before its target, which keeps its own name
    os.symlink("../beside", top / "far")
    os.symlink("../beside/deep", top / "far2")  # inside of what is listed by then
    os.symlink(".", top / "self")
    os.symlink("nowhere", top / "dangling")
    assert names(top) == (
        ["b b/1 é.png", "c/2.png", "dangling", "far/3.png", "far/deep/4.png", "z.txt"],
        ["a", "b b/to c", "c/to b", "far2", "self"],
    )


def test_a_link_to_a_parent_lists_its_other_files_once(tmp_path: Path) -> None:
    top = tmp_path / "x" / "top"
    make(top, "1.png")
    make(tmp_path, "x/2.png")
    os.symlink("..", top / "up")
    assert names(top) == (["1.png", "up/2.png"], ["up/top"])
