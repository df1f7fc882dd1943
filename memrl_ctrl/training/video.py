"""Videos of policies at work, as MP4 or GIF. Needs imageio (extra `plot`); for MP4 also its ffmpeg.

`film` shows one policy, `film_stages` several on the same episodes, one after the other, with captions.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from memrl_ctrl.errors import MemrlError, MissingExtraError, UsageError
from memrl_ctrl.outputs import check_output_file, output_file
from memrl_ctrl.training.environments import PICTURE
from memrl_ctrl.training.evaluation import Policy, open_for, play_round
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.watching import Watched

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
NARROWEST_PX = 480
"""Width that a picture with a caption has at least; small ones are enlarged."""
LONGEST = 1_000
"""Steps that an episode is taken to have at most where nothing says so."""


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


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A policy of several, and what is written above it."""

    policy: Policy
    caption: tuple[str, ...] = ()
    """Lines above the picture, and below them one with the step and the return so far; none for none."""


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
    return film_stages(
        [Stage(policy=policy)],
        path,
        environment=environment,
        options=options,
        episodes=episodes,
        seed=seed,
        fps=fps,
        progress=progress,
    )


def film_stages(
    stages: Sequence[Stage],
    path: str | Path,
    *,
    environment: str,
    options: Mapping[str, Any] | None = None,
    episodes: int = 1,
    seed: int = 1_000_003,
    fps: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Video:
    """Play the same episodes with one policy after the other.

    Args:
        stages: the policies; all see and act alike.
        path, environment, options, seed, fps, progress: see `film`.
        episodes: of each of them.

    Raises:
        UsageError, MismatchError, MissingExtraError, FileError: see `film`.
    """
    path = check_video(path)
    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, not {episodes}")
    stepper = open_for(stages[0].policy, environment, 1, dict(options or {}), pictures=True)
    stepper.env = watched = Watched(stepper.env)
    try:
        speed, stride = speed_of(stepper, path.suffix.lower(), fps)
        count = _counter(stepper, len(stages) * episodes, progress)
        camera = _Camera(stepper, watched, environment, stride, count)
        returns = []
        with output_file(path) as partial, film_writer(partial, speed) as write:
            for number, stage in enumerate(stages):
                for episode in range(episodes):
                    camera.begin(number * episodes + episode, write, stage.caption)
                    played = play_round(stage.policy, stepper, seed + episode, camera.look)
                    returns.append(float(played[0][0]))
                    camera.end(round(HELD_S * speed))
        if progress is not None:
            progress(1, 1)
    finally:
        stepper.close()
    return Video(
        path=path, episodes=len(returns), frames=camera.frames, fps=speed, returns=tuple(returns)
    )


class _Camera:
    """Takes every `stride`-th picture of an episode, and its last one."""

    def __init__(
        self,
        stepper: Stepper,
        watched: Watched,
        name: str,
        stride: int,
        count: Callable[[int, int], None],
    ) -> None:
        self._stepper, self._watched, self._name = stepper, watched, name
        self._stride, self._count = stride, count
        self._write: Callable[[Frame], None] = _nowhere
        self._caption: tuple[str, ...] = ()
        self._step, self._number, self.frames = -1, 0, 0
        self._taken, self._return = -1, 0.0

    def begin(self, number: int, write: Callable[[Frame], None], caption: tuple[str, ...]) -> None:
        """Begin an episode."""
        self._number, self._write, self._caption = number, write, caption
        self._step, self._return = -1, 0.0

    def look(self) -> None:
        """Take a picture, where it is its turn."""
        self._step += 1
        if self._step:
            self._return += float(self._watched.reward[0])
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
        frame = draw_world(self._stepper, self._name)
        if self._caption:
            now = f"this episode: step {self._step}, return {self._return:.4g}"
            frame = captioned(frame, [*self._caption, now])
        return evened(frame)


def draw_world(stepper: Stepper, name: str) -> Frame:
    """Return what the environment of the first row draws [height, width, 3].

    Args:
        stepper: opened with pictures.
        name: of the environment, for the sentence.

    Raises:
        UsageError: it draws none.
        MemrlError: a library that it draws with is missing.
    """
    try:
        drawn: Any = stepper.env.render()
    except (NotImplementedError, ImportError, gymnasium.error.Error) as error:
        raise MemrlError(f"environment {name!r} could not draw a picture: {error}") from error
    frame = np.asarray(drawn[0]) if isinstance(drawn, tuple | list) and drawn else None
    if frame is None or frame.ndim != 3 or frame.shape[2] < 3:
        raise UsageError(
            f"environment {name!r} draws no pictures: its render mode {PICTURE} gave none"
        )
    return np.ascontiguousarray(frame[..., :3], dtype=np.uint8)


def check_drawn(policy: Policy, environment: str, options: Mapping[str, Any]) -> None:
    """Try, before the work, whether a policy can be filmed in an environment.

    Raises:
        UsageError, MemrlError, MismatchError: see `film`.
    """
    stepper = open_for(policy, environment, 1, dict(options), pictures=True)
    try:
        stepper.reset(0)
        draw_world(stepper, environment)
    finally:
        stepper.close()


def evened(frame: Frame) -> Frame:
    """Return a picture of even width and height, which is what most players take."""
    even = [(0, size % 2) for size in frame.shape[:2]]
    return np.pad(frame, (*even, (0, 0)), mode="edge")


def captioned(frame: Frame, lines: Sequence[str]) -> Frame:
    """Return a picture with lines of text above it, enlarged where they would have no room."""
    from PIL import Image, ImageDraw, ImageFont

    times = -(-NARROWEST_PX // frame.shape[1])
    frame = frame.repeat(times, axis=0).repeat(times, axis=1)
    width = frame.shape[1]
    size = width / 32
    font = ImageFont.load_default(size)
    longest = max(font.getlength(line) for line in lines)
    if longest > 0.97 * width:
        size *= 0.97 * width / longest
        font = ImageFont.load_default(size)
    spacing = 1.35 * size
    strip = Image.new("RGB", (width, round(spacing * (len(lines) + 0.35))), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((0.015 * width, spacing * (number + 0.15)), line, fill="black", font=font)
    return np.concatenate([np.asarray(strip), frame])


def _nowhere(frame: Frame) -> None:
    """Before the first episode there is no film."""


def _one(stepper: Stepper) -> Any:
    """Return the environment that plays."""
    return stepper.env.unwrapped.envs[0]  # type: ignore[attr-defined]


def speed_of(stepper: Stepper, suffix: str, fps: float | None) -> tuple[float, int]:
    """Return pictures a second, and every how many-th step is one.

    Args:
        stepper: opened with pictures.
        suffix: `.mp4` or `.gif`.
        fps: steps a second; None: as the environment says.

    Raises:
        UsageError: it is not above 0.
    """
    speed = float(_one(stepper).metadata.get("render_fps") or USUAL_FPS) if fps is None else fps
    if not (math.isfinite(speed) and speed > 0.0):
        raise UsageError(f"fps must be above 0, not {speed:g}")
    stride = math.ceil(speed / MOST_FPS[suffix])
    return speed / stride, stride


def most_steps(stepper: Stepper) -> int:
    """Return the steps that an episode has at most, as far as its environment says."""
    plain: Any = stepper.env.unwrapped
    first = plain.envs[0] if isinstance(plain, SyncVectorEnv) else plain
    inside = getattr(first, "unwrapped", first)
    worlds = getattr(inside, "worlds", None)
    known = (
        getattr(getattr(inside, "task", None), "episode_length", None),
        getattr(worlds.envs[0], "max_steps", None) if worlds is not None else None,
        getattr(first.spec, "max_episode_steps", None),
    )
    return next((int(steps) for steps in known if steps), LONGEST)


def _counter(
    stepper: Stepper, episodes: int, progress: Callable[[int, int], None] | None
) -> Callable[[int, int], None]:
    """Return what turns episode and step into work done; an episode may end before its most steps."""
    most = most_steps(stepper)

    def count(number: int, step: int) -> None:
        if progress is not None:
            done = number * most + min(step, most)
            # The last step is not the end: the file is still to be written.
            progress(min(done, episodes * most - 1), episodes * most)

    return count


@contextmanager
def film_writer(path: Path, fps: float) -> Iterator[Callable[[Frame], None]]:
    """Give what takes frames, until the film is done.

    Args:
        path: `.mp4` or `.gif`.
        fps: pictures a second.
    """
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
