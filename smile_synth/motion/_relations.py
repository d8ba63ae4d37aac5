"""Relations: how the other objects of a group move with its first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Union

import numpy as np
from pydantic import Field

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import Positive, PositiveRange, ShareRange
from smile_synth.io.strict_yaml import StrictModel
from smile_synth.motion._base import Float, Path
from smile_synth.motion._orbit import around


@dataclass(frozen=True)
class Bond:
    """What a relation is made for: R followers at once, each with the leader of its group.

    Attributes:
        leader: ``[R, T, 2]`` path of the first object, pixels.
        own: ``[R, T, 2]`` the path that the follower would take alone.
        leader_wh, own_wh: ``[R, 2]`` mean box of either.
        frame_wh: ``[2]``.
    """

    leader: Float
    own: Float
    leader_wh: Float
    own_wh: Float
    frame_wh: Float


class RelationKeys(StrictModel):
    """Keys of every relation.

    Attributes:
        weight: how often this entry is drawn, relative to the others.
        members: objects in the group, its leader among them; all objects of the clip if it has fewer.
    """

    weight: Positive = 1.0
    members: Annotated[int, Field(ge=2)] = 2


class Independent(RelationKeys):
    """No relation: every object moves for itself."""

    relation: Literal["independent"]


def independent(*, rng: RandomStreams, parameters: Independent, bond: Bond) -> Path:
    """Return the follower's own path."""
    return Path(bond.own)


class CommonFate(RelationKeys):
    """Keys of ``common-fate``: the group moves as one."""

    relation: Literal["common-fate"]


def common_fate(*, rng: RandomStreams, parameters: CommonFate, bond: Bond) -> Path:
    """Give the follower the leader's way, from a start that keeps it inside the frame if one does."""
    travel = bond.leader - bond.leader[:, :1]
    half = bond.own_wh[:, None] / 2
    low, high = (half - travel).max(axis=1), (bond.frame_wh - half - travel).min(axis=1)
    middle = (low + high) / 2
    low, high = np.minimum(low, middle), np.where(high < low, middle, high)
    return Path((low + rng.random(2) * (high - low))[:, None] + travel)


class Following(RelationKeys):
    """Keys of ``following``.

    Attributes:
        lag: [low, high] frames behind the leader.
    """

    relation: Literal["following"]
    lag: PositiveRange


def following(*, rng: RandomStreams, parameters: Following, bond: Bond) -> Path:
    """Put the follower where the leader was; before its start the leader came straight."""
    frames = bond.leader.shape[1]
    lag = rng.uniform(*parameters.lag)
    at = np.arange(frames) - lag[:, None]
    before = np.clip(np.floor(at).astype(int), 0, max(frames - 2, 0))
    after = np.minimum(before + 1, frames - 1)
    rows = np.arange(len(lag))[:, None]
    u = (at - before)[..., None]  # negative before the start: the first step goes on backwards
    return Path(bond.leader[rows, before] * (1 - u) + bond.leader[rows, after] * u, {"lag_frames": lag})


class Collision(RelationKeys):
    """Keys of ``collision``.

    Attributes:
        at: [low, high] share of the clip after which the boxes touch.
        after: what the follower does then: bounce back, stop, or pass.
    """

    relation: Literal["collision"]
    at: ShareRange = (0.4, 0.6)
    after: Literal["bounce", "stop", "pass"] = "bounce"


def collision(*, rng: RandomStreams, parameters: Collision, bond: Bond) -> Path:
    """Run straight from the follower's start to the place where it touches the leader, and on."""
    frames = bond.leader.shape[1]
    time = np.maximum(rng.uniform(*parameters.at) * (frames - 1), 1e-9)
    before = np.clip(np.floor(time).astype(int), 0, max(frames - 2, 0))
    rows, u = np.arange(len(time)), (time - before)[:, None]
    meeting = bond.leader[rows, before] * (1 - u) + bond.leader[rows, np.minimum(before + 1, frames - 1)] * u
    start = bond.own[:, 0]
    away = start - meeting
    distance = np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-9)
    # Boxes touch where, along the way, half of either side adds up on one axis.
    reach = (bond.leader_wh + bond.own_wh) / 2
    touch = (reach / np.maximum(np.abs(away) / distance, 1e-9)).min(axis=-1, keepdims=True)
    contact = meeting + away / distance * np.minimum(touch, distance)
    share = np.arange(frames) / time[:, None]
    beyond = {"bounce": -1.0, "stop": 0.0, "pass": 1.0}[parameters.after]
    share = np.where(share > 1, 1 + beyond * (share - 1), share)[..., None]
    return Path(start[:, None] * (1 - share) + contact[:, None] * share, {"collides_frame": time})


class Orbiting(RelationKeys):
    """Keys of ``orbiting``.

    Attributes:
        distance: [low, high] between the middles, 1 is where the circles around both boxes touch.
        turn: [low, high] degrees per frame; the sense is drawn.
    """

    relation: Literal["orbiting"]
    distance: PositiveRange = (0.8, 1.2)
    turn: PositiveRange


def orbiting(*, rng: RandomStreams, parameters: Orbiting, bond: Bond) -> Path:
    """Turn round the leader, wherever it goes."""
    reach = (np.hypot(*bond.leader_wh.T) + np.hypot(*bond.own_wh.T)) / 2
    radius = rng.uniform(*parameters.distance) * reach
    turn = rng.uniform(*parameters.turn) * rng.sign()
    angle = np.deg2rad(rng.uniform(0, 360)[:, None] + turn[:, None] * np.arange(bond.leader.shape[1]))
    values = bond.leader + radius[:, None, None] * around(angle, 2)
    return Path(values, {"radius_px": radius, "turn_degrees_per_frame": turn})


class Relation(NamedTuple):
    """A relation: the model of its keys and ``(*, rng, parameters, bond) -> Path`` of the followers."""

    parameters: type[RelationKeys]
    draw: Callable[..., Path]


RELATIONS: dict[str, Relation] = {
    "independent": Relation(Independent, independent),
    "common-fate": Relation(CommonFate, common_fate),
    "following": Relation(Following, following),
    "collision": Relation(Collision, collision),
    "orbiting": Relation(Orbiting, orbiting),
}

if TYPE_CHECKING:
    AnyRelation = RelationKeys
else:
    AnyRelation = Annotated[
        Union[tuple(relation.parameters for relation in RELATIONS.values())],  # noqa: UP007
        Field(discriminator="relation"),
    ]


def draw_relation(parameters: RelationKeys, bond: Bond, *, rng: RandomStreams) -> Path:
    """Draw the followers' paths with the relation that the parameters name."""
    name: str = parameters.relation  # type: ignore[attr-defined]
    return RELATIONS[name].draw(rng=rng, parameters=parameters, bond=bond)
