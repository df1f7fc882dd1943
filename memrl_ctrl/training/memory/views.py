"""What is drawn of the world and of what the agent sees of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.policy.manifest import PolicyManifest
from memrl_ctrl.tasks.minigrid import SeenGrid
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.video import Frame, draw_world
from memrl_ctrl.training.watching import Watched

TILE_PX = 32
"""Side of a cell in pictures of the agent's view."""
LARGEST_PX = 400
"""Longest side of a picture that is kept."""
GRID_ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")


def world_picture(stepper: Stepper, name: str) -> Frame:
    """Return the world as its environment draws it, not larger than needed; see `draw_world`."""
    return smaller(draw_world(stepper, name), LARGEST_PX)


def smaller(frame: Frame, longest: int) -> Frame:
    """Return a picture whose sides are at most `longest` pixels."""
    from PIL import Image

    most = max(frame.shape[:2])
    if most <= longest:
        return frame
    size = [max(round(side * longest / most), 1) for side in frame.shape[1::-1]]
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def agent_picture(watched: Watched, shape: tuple[int, ...]) -> Frame | None:
    """Return what the agent sees as a picture, where it is one; None where it is a vector.

    Args:
        watched: the environment, of one row.
        shape: of an observation.
    """
    if len(shape) != 3:
        return None
    single = next((env.unwrapped for env in watched.singles()), None)
    seen = watched.seen[0].reshape(shape)
    if isinstance(single, SeenGrid) and not single.sight.pixels:
        raw: Any = single.raw
        inside = bool(single.sight.view_size)
        return smaller(
            np.asarray(raw.get_frame(highlight=False, tile_size=TILE_PX, agent_pov=inside)),
            LARGEST_PX,
        )
    if shape[2] != 3:
        seen = seen.mean(axis=2, keepdims=True).repeat(3, axis=2)
    low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 1.0)
    return np.asarray(255.0 * (seen - low) / (high - low)).astype(np.uint8)


def action_words(manifest: PolicyManifest, watched: Watched) -> tuple[str, ...]:
    """Return a name for each column of probabilities, or of the action."""
    action = manifest.action
    single = next((env.unwrapped for env in watched.singles()), None)
    if isinstance(single, SeenGrid):
        return GRID_ACTIONS[: sum(action.choices)]
    if action.choices == (2,):
        return ("left", "right") if "CartPole" in manifest.training.task else ("0", "1")
    if len(action.choices) == 1:
        return tuple(str(n) for n in range(action.choices[0]))
    if action.choices:
        return tuple(f"{k}: {n}" for k, count in enumerate(action.choices, 1) for n in range(count))
    unit = " (deg)" if action.kind == "delta-phi-rad" else ""
    many = int(np.prod(action.shape))
    return tuple(f"action {n}{unit}" if many > 1 else f"action{unit}" for n in range(1, many + 1))


def shown_action(manifest: PolicyManifest, action: NDArray[Any]) -> NDArray[np.float64]:
    """Return actions in the unit of `action_words`: degrees for the beam."""
    values = np.asarray(action, dtype=np.float64)
    return np.degrees(values) if manifest.action.kind == "delta-phi-rad" else values
