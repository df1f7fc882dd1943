"""Videos of a policy at work, as MP4 or GIF. Needs imageio (extra `plot`); for MP4 also its ffmpeg."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import MemrlError, MissingExtraError, UsageError
from memrl_ctrl.outputs import check_output_file, output_file
from memrl_ctrl.training.environments import PICTURE
from memrl_ctrl.training.evaluation import Policy, open_for, play_round
from memrl_ctrl.training.stepper import Stepper

Frame = NDArray[np.uint8]

SUFFIXES = (".gif", ".mp4")
EPISODES = 2
"""Episodes of a video, unless told otherwise."""
USUAL_FPS = 30.0
"""Where an environment does not say how many of its steps make a second."""
MOST_FPS = {".gif": 25.0, ".mp4": 60.0}
"""A quicker environment is shown in every second, third, … step, at its own speed."""
HELD_S = 1.0
"""How long the end of an episode stands, s."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """What was filmed."""

    path: Path
    """The file."""
    episodes: int
    """Whole episodes in it."""
    frames: int
    """Pictures in it, those that stand at the end of episodes included."""
    fps: float
    """Pictures a second."""
    returns: tuple[float, ...]
    """Undiscounted return of each episode."""


def check_video(path: str | Path) -> Path:
    """Try, before the work, whether a video can be written; return its path.

    Raises:
        UsageError: the suffix is of no video that can be made.
        MissingExtraError: what writes it is not installed.
        FileError: it cannot be written there.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        has = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise UsageError(f"video {path} {has}; it must end in .mp4 or .gif")
    if importlib.util.find_spec("imageio") is None:
        raise MissingExtraError("a video", "imageio", "plot")
    if suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise MissingExtraError("a video .mp4 (a .gif does not)", "imageio-ffmpeg", "plot")
    return check_output_file(path)


def film(
    policy: Policy,
    path: str | Path,
    *,
    environment: str,
    options: Mapping[str, Any] | None = None,
    episodes: int = EPISODES,
    seed: int = 1_000_003,
    fps: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Video:
    """Play whole episodes, one after the other, and keep what the environment draws.

    The episodes have the seeds `seed`, `seed` + 1, …; they are not those of `run_episodes`, which plays
    many together.

    Args:
        policy: whose memory is reset at the start of each episode.
        path: `.mp4` or `.gif`.
        environment: Gymnasium's name; it must have the render mode `rgb_array`.
        options: its keyword arguments.
        episodes: how many.
        seed: of the first.
        fps: steps a second; without it as the environment says (its `render_fps`), else 30.
        progress: called with steps done and the most that there can be.

    Raises:
        UsageError: the environment cannot draw pictures; a suffix that is none of a video.
        MismatchError: the policy's observation or action is not the environment's.
        MissingExtraError: imageio, or its ffmpeg, is not installed.
        FileError: the file cannot be written.
    """
    path = check_video(path)
    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, not {episodes}")
    stepper = open_for(policy, environment, 1, dict(options or {}), pictures=True)
    try:
        speed, stride = _speed(_one(stepper), path.suffix.lower(), fps)
        camera = _Camera(stepper, environment, stride, _counter(stepper, episodes, progress))
        returns = []
        with output_file(path) as partial, _writer(partial, speed) as write:
            for number in range(episodes):
                camera.begin(number, write)
                returns.append(float(play_round(policy, stepper, seed + number, camera.look)[0][0]))
                camera.end(round(HELD_S * speed))
        if progress is not None:
            progress(1, 1)
    finally:
        stepper.close()
    return Video(
        path=path, episodes=episodes, frames=camera.frames, fps=speed, returns=tuple(returns)
    )


class _Camera:
    """Takes every `stride`-th picture of an episode, and its last one."""

    def __init__(
        self, stepper: Stepper, name: str, stride: int, count: Callable[[int, int], None]
    ) -> None:
        self._env, self._name, self._stride = stepper.env, name, stride
        self._count = count
        self._write: Callable[[Frame], None] = _nowhere
        self._step, self._number, self.frames = -1, 0, 0
        self._taken = -1

    def begin(self, number: int, write: Callable[[Frame], None]) -> None:
        """Begin an episode."""
        self._number, self._write, self._step = number, write, -1

    def look(self) -> None:
        """Take a picture, where it is its turn."""
        self._step += 1
        self._count(self._number, self._step)
        if self._step % self._stride == 0:
            self._taken = self._step
            self._keep(self._picture(), 1)

    def end(self, held: int) -> None:
        """Let the last picture stand."""
        self._keep(self._picture(), max(held - (self._taken == self._step), 1))

    def _keep(self, frame: Frame, times: int) -> None:
        for _ in range(times):
            self._write(frame)
        self.frames += times

    def _picture(self) -> Frame:
        try:
            drawn: Any = self._env.render()
        except (NotImplementedError, ImportError, gymnasium.error.Error) as error:
            raise MemrlError(
                f"environment {self._name!r} could not draw a picture: {error}"
            ) from error
        frame = np.asarray(drawn[0]) if isinstance(drawn, tuple | list) and drawn else None
        if frame is None or frame.ndim != 3 or frame.shape[2] < 3:
            raise UsageError(
                f"environment {self._name!r} draws no pictures: its render mode {PICTURE} gave none"
            )
        # What most players take has an even width and height.
        even = [(0, size % 2) for size in frame.shape[:2]]
        return np.ascontiguousarray(
            np.pad(frame[..., :3], (*even, (0, 0)), mode="edge"), dtype=np.uint8
        )


def _nowhere(frame: Frame) -> None:
    """Before the first episode there is no film."""


def _one(stepper: Stepper) -> Any:
    """Return the environment that plays."""
    return stepper.env.unwrapped.envs[0]  # type: ignore[attr-defined]


def _speed(env: Any, suffix: str, fps: float | None) -> tuple[float, int]:
    """Return pictures a second, and every how many-th step is one."""
    speed = float(env.metadata.get("render_fps") or USUAL_FPS) if fps is None else fps
    if not (math.isfinite(speed) and speed > 0.0):
        raise UsageError(f"fps must be above 0, not {speed:g}")
    stride = math.ceil(speed / MOST_FPS[suffix])
    return speed / stride, stride


def _counter(
    stepper: Stepper, episodes: int, progress: Callable[[int, int], None] | None
) -> Callable[[int, int], None]:
    """Return what turns episode and step into work done; an episode may end before its most steps."""
    env = _one(stepper)
    task = getattr(env.unwrapped, "task", None)
    spec = env.spec
    most = getattr(task, "episode_length", None) or (spec and spec.max_episode_steps) or 1000

    def count(number: int, step: int) -> None:
        if progress is not None:
            done = number * most + min(step, most)
            # The last step is not the end: the file is still to be written.
            progress(min(done, episodes * most - 1), episodes * most)

    return count


@contextmanager
def _writer(path: Path, fps: float) -> Iterator[Callable[[Frame], None]]:
    """Give what takes frames, until the film is done."""
    import imageio.v2 as imageio

    if path.suffix.lower() == ".gif":
        # Hundredths of a second are what the format knows.
        settings: dict[str, Any] = {"mode": "I", "duration": 10 * round(100.0 / fps), "loop": 0}
    else:
        settings = {"fps": fps, "macro_block_size": 2, "ffmpeg_log_level": "error"}
    # The library's type of what it returns has no method to write with.
    writer: Any
    with imageio.get_writer(path, **settings) as writer:
        yield writer.append_data
