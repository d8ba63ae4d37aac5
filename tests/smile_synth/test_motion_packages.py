"""Motion families of other packages."""

import copy
import pickle
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStreams
from smile_synth.motion import (
    FAMILIES,
    Family,
    FamilyParameters,
    Request,
    load_installed,
    register,
)
from smile_synth.motion._families import UNAVAILABLE
from smile_synth.recipe import Recipe


class Zigzag(FamilyParameters):
    family: Literal["zigzag"]
    height: float = 3.0


def zigzag(*, rng: RandomStreams, parameters: Zigzag, request: Request) -> Any:
    raise NotImplementedError


class Sawtooth(FamilyParameters):
    height: float = 3.0


class Entry:
    """An entry point of an installed package."""

    value, dist = "waves.motion:family", SimpleNamespace(name="waves")

    def __init__(self, name: str, offered: Any) -> None:
        self.name, self.offered = name, offered

    def load(self) -> Any:
        if isinstance(self.offered, Exception):
            raise self.offered
        return self.offered


def load(monkeypatch: pytest.MonkeyPatch, *points: Entry) -> None:
    """Load the families of entry points; the test's end removes them again."""
    for point in points:
        monkeypatch.setitem(FAMILIES, point.name, FAMILIES.get(point.name))
        if FAMILIES[point.name] is None:
            del FAMILIES[point.name]
        monkeypatch.setitem(UNAVAILABLE, point.name, "")
        del UNAVAILABLE[point.name]
    found = {"smile_synth.motion_families": points}
    monkeypatch.setattr("smile_synth.motion._families.entry_points", lambda group: found[group])
    load_installed()


def test_a_family_is_registered_once_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(FAMILIES, "zigzag", Family(Zigzag, zigzag))
        with pytest.raises(ValueError, match="'zigzag' is registered already"):
            register(Family(Zigzag, zigzag))
    with pytest.raises(ValueError, match=r"Sawtooth needs the key family: Literal\[name\]"):
        register(Family(Sawtooth, zigzag))


def test_families_of_installed_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, Entry("zigzag", Family(Zigzag, zigzag)))
    assert FAMILIES["zigzag"].parameters is Zigzag


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (ImportError("no module named 'waves'"), "ImportError: no module named 'waves'"),
        (Family(Sawtooth, zigzag), r"ValueError: Sawtooth needs the key family"),
        (3, "AttributeError"),
    ],
)
def test_a_broken_package_is_skipped_and_its_family_is_refused(
    monkeypatch: pytest.MonkeyPatch, offered: Any, reason: str
) -> None:
    good = Entry("zigzag", Family(Zigzag, zigzag))
    message = f"motion family 'sawtooth' cannot be loaded from package 'waves': {reason}"
    with pytest.warns(UserWarning, match=message) as caught:
        load(monkeypatch, Entry("sawtooth", offered), good)
    assert len(caught) == 1 and "zigzag" in FAMILIES and "sawtooth" not in FAMILIES
    for use in ("motion=[{family: sawtooth}]", "motion.0.rotation={family: sawtooth}"):
        with pytest.raises(UserError, match=message):
            Recipe.load("smile-gaussian", [use])


def test_two_packages_cannot_offer_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [Entry("zigzag", Family(Zigzag, zigzag))] * 2
    with pytest.raises(ValueError, match="'zigzag' is registered already"):
        load(monkeypatch, *twice)


def test_recipes_can_be_pickled_and_copied() -> None:
    recipe = Recipe.load("tracking-hard", ["motion.0.depth={family: spline, low: 0, high: 1}"])
    for again in (pickle.loads(pickle.dumps(recipe)), copy.deepcopy(recipe)):
        assert again == recipe and again.digest == recipe.digest
        assert type(again.motion[0]) is type(recipe.motion[0])
