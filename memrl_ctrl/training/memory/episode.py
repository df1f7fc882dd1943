"""One episode with everything that is drawn and kept of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import MemrlError
from memrl_ctrl.outputs import output_file, write_output
from memrl_ctrl.training.memory.insight import Insight
from memrl_ctrl.training.memory.recording import Moments, Recorder, open_watched, play
from memrl_ctrl.training.memory.secrets import Secret
from memrl_ctrl.training.memory.space import Space
from memrl_ctrl.training.memory.views import (
    action_words,
    agent_picture,
    shown_action,
    world_picture,
)
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.video import USUAL_FPS, Frame
from memrl_ctrl.training.watching import Watched

Floats = NDArray[np.float64]
MOST_PICTURES = 600
"""Pictures that are kept of an episode; of a longer one every second step, and so on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """What is known of an episode that is drawn."""

    number: int
    """From 1."""
    seed: int
    """That it began with."""
    moments: Moments
    """Its decisions, in order."""
    secrets: tuple[Secret, ...]
    """What `moments.hidden` holds."""
    words: tuple[str, ...]
    """Names of the columns of probabilities, or of the action."""
    acted: Floats
    """Actions in the unit that the words name [steps, n_action]."""
    spread: Floats | None
    """Their deviation while it learns [n_action]; None where it is not known."""
    worlds: tuple[Frame, ...]
    """Pictures of the world at every `stride`-th step, and at the end; empty where there are none."""
    agents: tuple[Frame, ...]
    """What the agent saw, where it is a picture; as many."""
    stride: int
    """Steps between pictures."""
    success: bool | None
    """Whether it reached what the task asks for; None where that is not defined."""
    shape: tuple[int, ...]
    """Of an observation."""
    value_words: str
    """What the value is."""

    @property
    def steps(self) -> int:
        """Decisions."""
        return len(self.moments.step)

    @property
    def total(self) -> float:
        """Undiscounted return."""
        return float(self.moments.reward.sum())

    @property
    def end_words(self) -> str:
        """How it ended."""
        words = f"{self.steps} steps, return {self.total:.4g}"
        return (
            words
            if self.success is None
            else f"{words}, {'success' if self.success else 'failure'}"
        )


class Stage:
    """An environment that draws, where it can, and in which episodes are played one by one.

    Args:
        insight: who plays.
        environment: Gymnasium's name.
        options: its options.
    """

    def __init__(self, insight: Insight, environment: str, options: dict[str, Any]) -> None:
        self._insight, self._name = insight, environment
        self.note: str | None = None
        """Why there are no pictures of the world; None where there are."""
        self._stepper, self._watched = self._opened(options)

    def _opened(self, options: dict[str, Any]) -> tuple[Stepper, Watched]:
        try:
            stepper, watched = open_watched(self._insight, self._name, 1, options, pictures=True)
            stepper.reset(0)
            world_picture(stepper, self._name)
        except MemrlError as error:
            # The same environment was opened without pictures before: only they can be missing.
            self.note = str(error)
            return open_watched(self._insight, self._name, 1, options, pictures=False)
        return stepper, watched

    @property
    def fps(self) -> float:
        """Steps a second, as the environment says."""
        single = next(iter(self._watched.singles()), None)
        return float((single.metadata.get("render_fps") if single else None) or USUAL_FPS)

    def play(self, number: int, seed: int, secrets_in: Any) -> Episode:
        """Play an episode.

        Args:
            number: from 1.
            seed: that it begins with.
            secrets_in: returns what is noted of the environment.
        """
        manifest, shape = self._insight.manifest, self._stepper.task.shape
        self._stepper.reset(seed)
        secrets = tuple(secrets_in(self._watched))
        recorder = Recorder(self._insight, self._watched, secrets)
        album = _Album(lambda: self._pictures(shape))
        played = play(recorder, self._stepper, self._watched, seed, album.look)
        album.end()
        moments = recorder.moments()
        deviation = self._insight.spread
        return Episode(
            number=number,
            seed=seed,
            moments=moments,
            secrets=secrets,
            words=action_words(manifest, self._watched),
            acted=shown_action(manifest, moments.action),
            spread=None if deviation is None else shown_action(manifest, deviation),
            worlds=album.of(0),
            agents=album.of(1),
            stride=album.stride,
            success=None if played.success is None else bool(played.success[0]),
            shape=shape,
            value_words=self._insight.value_words,
        )

    def close(self) -> None:
        """Close the environment."""
        self._stepper.close()

    def _pictures(self, shape: tuple[int, ...]) -> tuple[Frame | None, Frame | None]:
        """Return the world and what the agent sees of it, each where it is a picture."""
        world = world_picture(self._stepper, self._name) if self.note is None else None
        return world, agent_picture(self._watched, shape)


class _Album:
    """Pictures of an episode: every step, of a longer one every second, and so on; and its end.

    Args:
        take: takes those of now.
    """

    def __init__(self, take: Callable[[], tuple[Frame | None, Frame | None]]) -> None:
        self._take = take
        self._pairs: list[tuple[Frame | None, Frame | None]] = []
        self._step, self._last = -1, -1
        self.stride = 1

    def look(self) -> None:
        """Take pictures at the start and after each step, where it is their turn."""
        self._step += 1
        if self._step % self.stride:
            return
        self._pairs.append(self._take())
        self._last = self._step
        if len(self._pairs) > MOST_PICTURES:
            self.stride *= 2
            self._pairs = self._pairs[::2]
            self._last = (len(self._pairs) - 1) * self.stride

    def end(self) -> None:
        """Take the end."""
        if self._last != self._step:
            self._pairs.append(self._take())
            self._last = self._step

    def of(self, which: int) -> tuple[Frame, ...]:
        """Return the pictures of the world (0) or of what the agent saw (1); none where there are none."""
        return tuple(frame for pair in self._pairs if (frame := pair[which]) is not None)


def write_arrays(path: Path, episode: Episode, space: Space) -> None:
    """Write an episode's arrays as NPZ; `docs/memory.md` says what they are."""
    m = episode.moments
    sizes = [block.size for block in space.blocks]
    names = [block.name for block in space.blocks]
    arrays: dict[str, Any] = {
        "step": m.step,
        "observation": m.observation.reshape(-1, *episode.shape),
        "state": m.state,
        "unit_block": np.repeat(np.array(names), sizes),
        "unit_order": space.order,
        "components": space.plane(m.state),
        "action": m.action,
        "action_names": np.array(episode.words),
        "reward": m.reward,
        "secrets": np.array([secret.name for secret in episode.secrets], dtype=np.str_),
        "hidden": m.hidden,
        "lag": m.lag,
        "seed": np.int64(episode.seed),
    }
    if m.probabilities is not None:
        arrays["probabilities"] = m.probabilities
    if m.value is not None:
        arrays["value"] = m.value
    with output_file(path) as partial:
        np.savez_compressed(partial, **arrays)


def write_table(
    path: Path, episode: Episode, space: Space, decoded: Sequence[tuple[str, Floats]]
) -> None:
    """Write an episode's numbers of each step as CSV.

    Args:
        path: of the file.
        episode: whose.
        space: of the components.
        decoded: what probes say [steps], with their names.
    """
    m = episode.moments
    plane = space.plane(m.state)
    columns: dict[str, NDArray[Any]] = {"step": m.step, "reward": m.reward}
    columns["return"] = np.cumsum(m.reward)
    many = m.action.shape[1] > 1
    for at in range(m.action.shape[1]):
        columns[f"action {at + 1}" if many else "action"] = m.action[:, at]
    if m.probabilities is not None:
        columns |= {f"p({w})": m.probabilities[:, at] for at, w in enumerate(episode.words)}
    if m.value is not None:
        columns["value"] = m.value
    columns |= {"component 1": plane[:, 0], "component 2": plane[:, 1]}
    for at, secret in enumerate(episode.secrets):
        columns[secret.name] = m.hidden[:, at]
        columns[f"{secret.name}: lag"] = m.lag[:, at]
    columns |= dict(decoded)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{value:.7g}" for value in row])
    write_output(path, text.getvalue())
