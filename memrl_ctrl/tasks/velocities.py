"""Which entries of an observation are velocities, by the task's name.

Every index was checked against the source of the robots (`calc_state` in pybullet-envs-gymnasium 0.6.0:
`robot_locomotors.py`, `robot_pendula.py`, `robot_manipulators.py`; `gymnasium` 1.4.0 for the classic tasks).

| robot | observation |
|---|---|
| walkers | z, sin and cos of the angle to the target, vx, vy, vz, roll, pitch; of each joint its angle and its speed, in turns; contact of each foot |
| InvertedPendulum, Swingup | x, vx, cos theta, sin theta, theta' |
| InvertedDoublePendulum | x, vx, x of the upper pole, cos theta, sin theta, theta', cos gamma, sin gamma, gamma' |
| Reacher | target x, y, vector to the target x, y, cos theta, sin theta, theta', gamma, gamma' |

`remove_velocity` of Meng, Gorbet and Kulić 2021 (arXiv 2102.12344, and the code published with it) takes from
the walkers the velocity of the torso only and leaves them the speeds of their joints; it leaves the swing-up
undefined, which is the inverted pendulum's robot. `position_only` and `velocity_only` take and keep all
velocities, as in Ni, Eysenbach and Salakhutdinov 2022 (arXiv 2110.05038, `-P` and `-V`), where the contacts of
feet count as positions.
"""  # noqa: E501 - rows of a table

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memrl_ctrl.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Velocities:
    """Velocities in a task's observation."""

    size: int
    """Entries of the observation."""
    every: tuple[int, ...]
    """Indices of all velocities."""
    published: tuple[int, ...]
    """Indices that `remove_velocity` drops."""


def _walker(*, joints: int, feet: int) -> Velocities:
    """Torso (8 entries), angle and speed of each joint, contact of each foot."""
    torso = (3, 4, 5)
    speeds = tuple(range(9, 8 + 2 * joints, 2))
    return Velocities(size=8 + 2 * joints + feet, every=(*torso, *speeds), published=torso)


def _small(size: int, *indices: int) -> Velocities:
    return Velocities(size=size, every=indices, published=indices)


VELOCITIES: Mapping[str, Velocities] = {
    "HalfCheetahBulletEnv-v0": _walker(joints=6, feet=6),
    "AntBulletEnv-v0": _walker(joints=8, feet=4),
    "HopperBulletEnv-v0": _walker(joints=3, feet=1),
    "Walker2DBulletEnv-v0": _walker(joints=6, feet=2),
    "InvertedPendulumBulletEnv-v0": _small(5, 1, 4),
    "InvertedDoublePendulumBulletEnv-v0": _small(9, 1, 5, 8),
    "InvertedPendulumSwingupBulletEnv-v0": _small(5, 1, 4),
    "ReacherBulletEnv-v0": _small(9, 6, 8),
    "Pendulum-v1": _small(3, 2),
    "CartPole-v1": _small(4, 1, 3),
    "MountainCarContinuous-v0": _small(2, 1),
}
"""The tasks whose velocities are known."""


def velocities_of(name: str) -> Velocities:
    """Return where a task's velocities are.

    Raises:
        UsageError: not known for this task; says for which they are, and what to give instead.
    """
    if name not in VELOCITIES:
        raise UsageError(
            f"which entries of {name!r} are velocities is not known: give them as velocity_indices; "
            f"known are {', '.join(sorted(VELOCITIES))}"
        )
    return VELOCITIES[name]
