from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import StrictModel, dump, load, parse


class Cat(StrictModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1)] = 9


class Dog(StrictModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Range(StrictModel):
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


class House(StrictModel):
    name: str
    rate: float = 0.5
    floors: int = 2
    heated: bool = True
    style: Literal["brick", "timber"] = "brick"
    size: tuple[int, int] = (5, 7)
    range: Range = Range()
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []


def house(text: str, *overrides: str) -> House:
    return parse(House, text, name="house.yaml", overrides=overrides)


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        house(text, *overrides)
    return str(caught.value).splitlines()


# --- what values mean


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("3", 3.0), ("-.5", -0.5), ("+2.", 2.0), ("1.5e+2", 150.0)],
)
def test_numbers_with_exponents_or_bare_points_are_numbers(text: str, value: float) -> None:
    assert house(f"name: x\nrate: {text}").rate == value


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "12:30", "2001-01-01", "0x10", "1_000", "True", "Null"]
)
def test_other_words_are_text(text: str) -> None:
    assert house(f"name: {text}").name == text


def test_leading_zeros_are_decimal() -> None:
    assert house("name: x\nfloors: 010").floors == 10


def test_quotes_make_text() -> None:
    assert house("name: '1e-4'").name == "1e-4"
    assert mistakes("name: 1e-4") == ["house.yaml:1: name: should be a valid string, got 0.0001"]


@pytest.mark.parametrize(
    "name", ["no", "12:30", "1e-4", "1e5", "5e+3", "true", "null", "~", "", "010", ".5", "a: b"]
)
def test_a_dumped_model_reads_back_equal(name: str) -> None:
    first = House(name=name, rate=1e-7, pets=[Dog(kind="dog", tricks=[name, "-", "é"])])
    assert house(dump(first)) == first


def test_an_empty_file_misses_its_required_keys() -> None:
    assert mistakes("") == ["house.yaml:1: name: is missing"]


# --- mistakes


def test_all_mistakes_are_reported_at_once_each_with_its_line() -> None:
    text = "\n".join(
        [
            "# a comment",  # 1
            "floors: true",  # 2
            "rate: .nan",  # 3
            "roof: flat",  # 4
            "style: brik",  # 5
            "size: [5, 7.5]",  # 6
            "range:",  # 7
            "  low: 3",  # 8
            "pets:",  # 9
            "  - kind: cat",  # 10
            "    lives: 0",  # 11
            "  - kind: dgo",  # 12
            "  - kind: dog",  # 13
            "    trikcs: [sit]",  # 14
            "  - lives: 3",  # 15
        ]
    )
    assert mistakes(text) == [
        "house.yaml:2: name: is missing",
        "house.yaml:3: rate: should be a finite number, got nan",
        "house.yaml:2: floors: should be a valid integer, got true",
        "house.yaml:5: style: should be 'brick' or 'timber', got 'brik'; did you mean 'brick'?",
        "house.yaml:6: size.1: should be a valid integer, got 7.5",
        "house.yaml:7: range: low 3 is above high 1",
        "house.yaml:11: pets.0.lives: should be greater than or equal to 1, got 0",
        "house.yaml:12: pets.1.kind: unknown kind 'dgo', allowed are cat, dog; did you mean 'dog'?",
        "house.yaml:14: pets.2.trikcs: unknown key, allowed are kind, tricks; did you mean 'tricks'?",
        "house.yaml:15: pets.3: needs the key 'kind'",
        "house.yaml:4: roof: unknown key, allowed are floors, heated, name, pets, range, rate, size, style",
    ]


def test_an_unknown_key_names_the_nearest_one() -> None:
    (line,) = mistakes("name: x\nheatd: true")
    assert line.startswith("house.yaml:2: heatd: unknown key, allowed are floors, heated, ")
    assert line.endswith("; did you mean 'heated'?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: '0.5'", 'rate: should be a valid number, got "0.5"'),
        ("floors: 2.5", "floors: should be a valid integer, got 2.5"),
        ("floors: no", 'floors: should be a valid integer, got "no"'),
        ("heated: 1", "heated: should be a valid boolean, got 1"),
        ("heated: yes", 'heated: should be a valid boolean, got "yes"'),
        ("rate: true", "rate: should be a valid number, got true"),
        ("rate: .inf", "rate: should be a finite number, got inf"),
        ("rate: -.inf", "rate: should be a finite number, got -inf"),
        ("rate: 1e999", "rate: should be a finite number, got inf"),
        ("rate:", "rate: should be a valid number, got null"),
        ("size: 5", "size: should be a valid array, got 5"),
        ("pets: {kind: cat}", 'pets: should be a valid array, got {"kind": "cat"}'),
        ("pets: [3]", "pets.0: should be an object, got 3"),
        ("range: [0, 1]", "range: should be an object, got [0, 1]"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(text: str, message: str) -> None:
    assert mistakes(f"name: x\n{text}") == [f"house.yaml:2: {message}"]


def test_too_few_and_too_many_entries_are_refused() -> None:
    assert mistakes("name: x\nsize: [5]") == ["house.yaml:2: size.1: is missing"]
    (line,) = mistakes("name: x\nsize: [5, 6, 7]")
    assert line.startswith("house.yaml:2: size: ") and "at most 2 items" in line


def test_duplicate_keys_are_refused() -> None:
    text = "name: x\nrate: 0.1\nrange:\n  low: 0\n  low: 1\nrate: 0.2"
    assert mistakes(text) == [
        "house.yaml:5: range.low: is given twice, first on line 4",
        "house.yaml:6: rate: is given twice, first on line 2",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: x\nrate: [1, 2", 2),
        ("name: x\n\tfloors: 2", 2),
        ("name: x\nrate: {low: 1\nfloors: 2", 3),
        ("name: x\n--- \nname: y", 2),
        ("name: x\nrate: !thing 3", 2),
        ("name: x\nrate: *nowhere", 2),
        ("name: x\nfloors: !!int many", 1),
        ("name: x\npets: &all [*all]", 1),
        ("name: \x00", 1),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, line: int) -> None:
    (message,) = mistakes(text)
    assert message.startswith(f"house.yaml:{line}: not valid YAML: ")


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "3"])
def test_a_file_without_keys_is_refused(text: str) -> None:
    (line,) = mistakes(text)
    assert line.startswith("house.yaml:1: expected 'key: value' lines, got ")


@pytest.mark.parametrize("text", ["? [a, b]\n: c", "? {a: b}\n: c", "1: c", "rate: !!timestamp 2001-01-01"])
def test_odd_keys_and_values_are_refused_without_a_traceback(text: str) -> None:
    assert all(line.startswith("house.yaml:") for line in mistakes(f"name: x\n{text}"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read: No such file or directory"):
        load(House, tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(UserError, match=r"latin\.yaml: cannot be read: not UTF-8 text"):
        load(House, tmp_path / "latin.yaml")
    (tmp_path / "bad.yaml").write_text("name: x\nrate: x")
    with pytest.raises(UserError, match=r"bad\.yaml:2: rate: should be a valid number"):
        load(House, tmp_path / "bad.yaml")


# --- overrides

PETS = "name: x\nrange:\n  high: 2\npets:\n  - kind: cat\n  - {kind: dog, tricks: [sit, roll]}"


def test_overrides_replace_add_and_reach_into_lists() -> None:
    changed = house(
        PETS, "rate=1e-4", "range.low=-1", "pets.0.lives=3", "pets.1.tricks.1=beg", "name=no", "size=[1, 2]"
    )
    assert (changed.rate, changed.range.low, changed.range.high) == (1e-4, -1.0, 2.0)
    assert changed.pets == [Cat(kind="cat", lives=3), Dog(kind="dog", tricks=["sit", "beg"])]
    assert (changed.name, changed.size) == ("no", (1, 2))


def test_overrides_create_sections_that_the_file_lacks() -> None:
    assert house("name: x", "range.low=0.25").range.low == 0.25


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate", "override 'rate': expected key.path=value, for example objects.count=3"),
        ("=3", "override '=3': expected key.path=value, for example objects.count=3"),
        ("rate=[", "override 'rate=[': the value is not valid YAML"),
        ("rate=!!int x", "override 'rate=!!int x': the value is not valid YAML"),
        ("pets.2.lives=3", "override 'pets.2.lives=3': pets has the entries 0..1, got '2'"),
        ("pets.x=3", "override 'pets.x=3': pets has the entries 0..1, got 'x'"),
        ("pets.\u00b2=3", "override 'pets.\u00b2=3': pets has the entries 0..1, got '\u00b2'"),
        ("pets.1.tricks.0.x=3", "override 'pets.1.tricks.0.x=3': pets.1.tricks.0 has no keys"),
    ],
)
def test_an_invalid_override_is_refused(override: str, message: str) -> None:
    assert mistakes(PETS, override) == [message]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate=x", 'rate: should be a valid number, got "x"'),
        ("size=[1, x]", 'size.1: should be a valid integer, got "x"'),
        ("pets.0.lives=0", "pets.0.lives: should be greater than or equal to 1, got 0"),
        ("pets.0.kind=dgo", "pets.0.kind: unknown kind 'dgo', allowed are cat, dog; did you mean 'dog'?"),
        ("range.low=5", "range: low 5 is above high 2"),
        ("range.hihg=5", "range.hihg: unknown key, allowed are high, low; did you mean 'high'?"),
        ("name.first=x", 'name: should be a valid string, got {"first": "x"}'),
        ("rnge.low=1", "rnge: unknown key"),
    ],
)
def test_a_mistake_in_an_override_names_the_command_line(override: str, message: str) -> None:
    (line,) = mistakes(PETS, override)
    assert line.startswith(f"house.yaml: command line: {message}")


def test_a_mistake_in_the_file_beside_an_override_names_the_file() -> None:
    text = "name: x\npets:\n  - kind: cat\n    lifes: 3"
    lines = mistakes(text, "pets.0.lives=4")
    assert lines == [
        "house.yaml:4: pets.0.lifes: unknown key, allowed are kind, lives; did you mean 'lives'?"
    ]
    assert mistakes("range:\n  low: 0", "range.high=3") == ["house.yaml:1: name: is missing"]
    missing = mistakes("name: x\npets:\n  - lives: 3", "pets.0.lives=4")
    assert missing == ["house.yaml:3: pets.0: needs the key 'kind'"]


def test_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        house("name: x").rate = 1.0  # type: ignore[misc]


def test_anchors_are_read_and_merge_keys_are_unknown_keys() -> None:
    read = house("name: x\npets:\n  - &cat {kind: cat, lives: 3}\n  - *cat")
    assert read.pets == [Cat(kind="cat", lives=3)] * 2
    (line,) = mistakes("name: x\npets:\n  - &cat {kind: cat, lives: 3}\n  - {<<: *cat, kind: cat}")
    assert line == "house.yaml:4: pets.1.<<: unknown key, allowed are kind, lives"


class Inner(StrictModel):
    ratio: float = 0.5
    kind: str = "tube"


class Outer(StrictModel):
    steps: int
    items: list[Inner] = []
    mask: Inner = Inner()


def write_extending(folder: Path, child: str) -> Path:
    (folder / "base.yaml").write_text(
        "steps: 5\nitems: [{ratio: 0.1}, {ratio: 0.2}]\nmask: {ratio: 0.3, kind: block}\n"
    )
    (folder / "middle.yaml").write_text("extends: base\nmask: {ratio: 0.4}\n")
    (folder / "child.yaml").write_text(child)
    return folder / "child.yaml"


def beside(file: Path, name: str) -> Path:
    return file.parent / f"{name}.yaml"


def test_a_file_changes_single_values_of_the_file_that_it_extends(tmp_path: Path) -> None:
    child = write_extending(tmp_path, "extends: middle\nsteps: 7\nitems.1.kind: random\n")
    loaded = load(Outer, child, ["items.0.ratio=0.9"], find_base=beside)
    assert loaded == Outer(
        steps=7,
        items=[Inner(ratio=0.9), Inner(ratio=0.2, kind="random")],
        mask=Inner(ratio=0.4, kind="block"),
    )


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("extends: middle\nsteps: many\n", r"child.yaml:2: steps: .*got \"many\""),
        (
            "extends: middle\n\nitems.2.kind: tube\n",
            r"child.yaml:3: items.2.kind: items has the entries 0..1, got '2'",
        ),
        ("extends: middle\nitems.0.rato: 1.0\n", r"child.yaml:2: items.0.rato: unknown key"),
        ("extends: child\n", r"child.yaml:1: extends: 'child' extends itself"),
        ("extends: [a]\n", r"child.yaml:1: extends: should be the name or path of a config"),
        ("steps: 1\nitems.0: 2\n", r"child.yaml:2: items.0: unknown key"),
    ],
)
def test_mistakes_in_an_extending_file_name_its_line(tmp_path: Path, child: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(Outer, write_extending(tmp_path, child), find_base=beside)
