"""Relations: motion of the other objects of a group relative to its first object, the leader."""

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
from smile_synth.motion._orbit import on_circle


@dataclass(frozen=True)
class RelationRequest:
    """The request for the paths of R followers, each with the leader of its group.

    Attributes:
        leader: ``[R, T, 2]`` path of the leader, pixels.
        follower: ``[R, T, 2]`` path of the follower without the relation.
        leader_wh, follower_wh: ``[R, 2]`` mean box sides.
        frame_wh: ``[2]``.
    """

    leader: Float
    follower: Float
    leader_wh: Float
    follower_wh: Float
    frame_wh: Float


class RelationKeys(StrictModel):
    """Keys of every relation.

    Attributes:
        weight: relative frequency of this entry.
        members: number of objects in the group, with the leader; at most all labelled objects of the clip.
    """

    weight: Positive = 1.0
    members: Annotated[int, Field(ge=2)] = 2


class Independent(RelationKeys):
    """Keys of ``independent``: objects move independently of each other."""

    relation: Literal["independent"]


def independent(*, rng: RandomStreams, parameters: Independent, request: RelationRequest) -> Path:
    """Return the follower's path unchanged."""
    return Path(request.follower)


class CommonFate(RelationKeys):
    """Keys of ``common-fate``: all objects of the group make the same movements."""

    relation: Literal["common-fate"]


def common_fate(*, rng: RandomStreams, parameters: CommonFate, request: RelationRequest) -> Path:
    """Copy the leader's movements, from a start that keeps the follower inside the frame if possible."""
    travel = request.leader - request.leader[:, :1]
    half = request.follower_wh[:, None] / 2
    low, high = (half - travel).max(axis=1), (request.frame_wh - half - travel).min(axis=1)
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


def following(*, rng: RandomStreams, parameters: Following, request: RelationRequest) -> Path:
    """Follow the leader's path with a lag; the path is extended backwards by a straight line."""
    frames = request.leader.shape[1]
    lag = rng.uniform(*parameters.lag)
    at = np.arange(frames) - lag[:, None]
    before = np.clip(np.floor(at).astype(int), 0, max(frames - 2, 0))
    after = np.minimum(before + 1, frames - 1)
    rows = np.arange(len(lag))[:, None]
    u = (at - before)[..., None]  # negative before the start, which extends the first step backwards
    return Path(request.leader[rows, before] * (1 - u) + request.leader[rows, after] * u, {"lag_frames": lag})


class Collision(RelationKeys):
    """Keys of ``collision``.

    Attributes:
        at: [low, high] time of the contact of the boxes, as a share of the clip.
        after: motion of the follower after the contact: bounce back, stop, or pass.
    """

    relation: Literal["collision"]
    at: ShareRange = (0.4, 0.6)
    after: Literal["bounce", "stop", "pass"] = "bounce"


def collision(*, rng: RandomStreams, parameters: Collision, request: RelationRequest) -> Path:
    """Move in a straight line from the follower's start to the contact with the leader, and on."""
    frames = request.leader.shape[1]
    time = np.maximum(rng.uniform(*parameters.at) * (frames - 1), 1e-9)
    before = np.clip(np.floor(time).astype(int), 0, max(frames - 2, 0))
    rows, u = np.arange(len(time)), (time - before)[:, None]
    after = np.minimum(before + 1, frames - 1)
    meeting = request.leader[rows, before] * (1 - u) + request.leader[rows, after] * u
    start = request.follower[:, 0]
    offset = start - meeting
    distance = np.maximum(np.linalg.norm(offset, axis=-1, keepdims=True), 1e-9)
    # Boxes touch where their offset on one axis equals the sum of their half sides.
    reach = (request.leader_wh + request.follower_wh) / 2
    touch = (reach / np.maximum(np.abs(offset) / distance, 1e-9)).min(axis=-1, keepdims=True)
    contact = meeting + offset / distance * np.minimum(touch, distance)
    share = np.arange(frames) / time[:, None]
    beyond = {"bounce": -1.0, "stop": 0.0, "pass": 1.0}[parameters.after]
    share = np.where(share > 1, 1 + beyond * (share - 1), share)[..., None]
    return Path(start[:, None] * (1 - share) + contact[:, None] * share, {"collides_frame": time})


class Orbiting(RelationKeys):
    """Keys of ``orbiting``.

    Attributes:
        distance: [low, high] between the centres; at 1 the circles around both boxes touch.
        turn: [low, high] degrees per frame; the sense of rotation is random.
    """

    relation: Literal["orbiting"]
    distance: PositiveRange = (0.8, 1.2)
    turn: PositiveRange


def orbiting(*, rng: RandomStreams, parameters: Orbiting, request: RelationRequest) -> Path:
    """Move on a circle around the leader's current position."""
    reach = (np.hypot(*request.leader_wh.T) + np.hypot(*request.follower_wh.T)) / 2
    radius = rng.uniform(*parameters.distance) * reach
    turn = rng.uniform(*parameters.turn) * rng.sign()
    angle = np.deg2rad(rng.uniform(0, 360)[:, None] + turn[:, None] * np.arange(request.leader.shape[1]))
    values = request.leader + radius[:, None, None] * on_circle(angle, 2)
    return Path(values, {"radius_px": radius, "turn_degrees_per_frame": turn})


class Relation(NamedTuple):
    """A relation: the model of its keys and ``(*, rng, parameters, request) -> Path`` of the followers."""

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


def draw_relation(parameters: RelationKeys, request: RelationRequest, *, rng: RandomStreams) -> Path:
    """Draw the followers' paths with the relation ``parameters.relation``."""
    name: str = parameters.relation  # type: ignore[attr-defined]
    return RELATIONS[name].draw(rng=rng, parameters=parameters, request=request)
