"""Videos show what the policy did, whole episodes, and say in a sentence where there can be none."""

from __future__ import annotations

import json
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memrl_ctrl.agents.exportable import untrained_policy
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.cli import main
from memrl_ctrl.cli.video import even_stages
from memrl_ctrl.config import LstmTd3Config
from memrl_ctrl.errors import MissingExtraError, UsageError
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.evaluation import TorchPolicy
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.video import (
    Stage,
    captioned,
    check_video,
    film,
    film_stages,
    most_steps,
)

imageio = pytest.importorskip("imageio.v3")

LENGTHS = (4, 7)


class Lamp(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Draws the number of its step as brightness; its first episode after a seed of 5 ends at step 4,
    that of 6 at step 7."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - typed so by the base class
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None, fps: int = 10, picture: bool = True) -> None:
        self.render_mode, self._picture = render_mode, picture
        self.metadata = {**self.metadata, "render_fps": fps}
        self._step, self._last = 0, 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._step, self._last = 0, LENGTHS[(seed or 0) % 2 == 0]
        return np.zeros(2, dtype=np.float32), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._step += 1
        return np.zeros(2, dtype=np.float32), 1.0, self._step == self._last, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        if not self._picture:
            return None
        return np.full((31, 41, 3), 30 * self._step, dtype=np.uint8)


class Dark(Lamp):
    """Has no pictures, and says so."""

    metadata = {"render_modes": []}  # noqa: RUF012 - typed so by the base class


@pytest.fixture(autouse=True)
def _registered() -> Any:
    lamp: Any = Lamp
    dark: Any = Dark
    gymnasium.register("test/Lamp-v0", lamp, max_episode_steps=20)
    gymnasium.register("test/Dark-v0", dark)
    yield
    del gymnasium.registry["test/Lamp-v0"], gymnasium.registry["test/Dark-v0"]


def policy() -> TorchPolicy:
    task = TaskSpec(
        environment="test/Lamp-v0",
        kind="task",
        n_observation=2,
        action_low=(-1.0,),
        action_high=(1.0,),
    )
    return TorchPolicy(untrained_policy(task, LstmTd3Config(history_length=2), seed=0))


def brightness(path: Path) -> list[int]:
    """Step that each picture shows; a picture that stands is there once for each time."""
    frames = np.stack([frame[..., :3] for frame in imageio.imiter(path)])
    return [int(v) for v in np.round(frames[:, :30, :40].mean(axis=(1, 2, 3)) / 30.0)]


# imageio's reader of MP4, which only this test uses, leaves its pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_step_of_whole_episodes_is_shown_and_the_end_stands(tmp_path: Path) -> None:
    """Two episodes of 4 and 7 steps, each from its start to its end, the end for a second."""
    video = film(policy(), tmp_path / "a.mp4", environment="test/Lamp-v0", episodes=2, seed=5)
    assert video.returns == (4.0, 7.0)
    assert video.fps == 10.0
    first, second = [0, 1, 2, 3] + 10 * [4], [0, 1, 2, 3, 4, 5, 6] + 10 * [7]
    assert brightness(video.path) == first + second
    assert video.frames == len(first + second)
    # Odd sizes are made even, for players.
    assert imageio.improps(video.path, plugin="FFMPEG").shape[1:] == (32, 42, 3)


def test_a_gif_runs_at_its_own_speed(tmp_path: Path) -> None:
    """A quick environment is shown in every third step; start and end are there all the same."""
    video = film(
        policy(),
        tmp_path / "a.gif",
        environment="test/Lamp-v0",
        options={"fps": 60},
        episodes=1,
        seed=6,
    )
    assert video.fps == 20.0
    # Pictures that stand are one in a GIF, with a longer time.
    assert brightness(video.path) == [0, 3, 6, 7]
    assert imageio.immeta(video.path)["loop"] == 0
    times = [imageio.immeta(video.path, index=k)["duration"] for k in range(4)]
    assert times == [50, 50, 50, 1000]


def test_progress_grows_to_the_whole(tmp_path: Path) -> None:
    """Work done never shrinks within the film, and the end is the end."""
    said: list[tuple[int, int]] = []
    film(
        policy(),
        tmp_path / "a.gif",
        environment="test/Lamp-v0",
        episodes=2,
        seed=5,
        progress=lambda done, total: said.append((done, total)),
    )
    shares = [done / total for done, total in said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(share < 1.0 for share in shares[:-1])


@pytest.mark.parametrize("name", ["memrl/BeamPhase-v0", "memrl/BeamCycle-v0"])
def test_the_beam_is_filmed(name: str, tmp_path: Path) -> None:
    """Pictures of the environment, one for each shot and one for the beginning."""
    pytest.importorskip("matplotlib")
    task = beam_task(n_slices=32, max_step_rad=np.pi / 2.0, environment=name)
    player = TorchPolicy(untrained_policy(task, LstmTd3Config(history_length=2), seed=0))
    options = {"n_slices": 32, "program": "psb-2gev"}
    if name == "memrl/BeamPhase-v0":
        options["episode_length"] = 3
    video = film(player, tmp_path / "b.gif", environment=name, options=options, episodes=1)
    frames = list(imageio.imiter(video.path))
    assert frames[0].shape[:2] == (480, 640)
    assert len(frames) == (4 if name == "memrl/BeamPhase-v0" else 30)
    assert all(np.any(a != b) for a, b in pairwise(frames))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x.avi", "ends in '.avi'; it must end in .mp4 or .gif"),
        ("x", "has no ending; it must end in .mp4 or .gif"),
    ],
)
def test_a_suffix_of_no_video_is_refused(path: str, said: str) -> None:
    """The sentence says which there are."""
    with pytest.raises(UsageError, match=said):
        check_video(path)


@pytest.mark.parametrize(
    ("library", "path", "said"),
    [
        ("imageio", "x.gif", r"a video needs imageio: pip install \"memrl-ctrl\[plot\]\""),
        ("imageio_ffmpeg", "x.mp4", r"\(a .gif does not\) needs imageio-ffmpeg"),
    ],
)
def test_what_is_not_installed_is_said(
    library: str, path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the install line, before anything is played."""
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == library else found(name)
    )
    with pytest.raises(MissingExtraError, match=said):
        check_video(tmp_path / path)
    if library == "imageio_ffmpeg":
        assert check_video(tmp_path / "x.GIF").name == "x.GIF"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("test/Dark-v0", {}, "no render mode rgb_array .it has: none"),
        ("test/Lamp-v0", {"picture": False}, "its render mode rgb_array gave none"),
        ("memrl/Recall-v0", {}, "'memrl/Recall-v0' draws no pictures"),
    ],
)
def test_an_environment_that_draws_nothing_is_named(
    name: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """No file is left behind."""
    # Gymnasium's own warning about it.
    warnings.filterwarnings("ignore", ".*RGB-array rendering")
    with pytest.raises(UsageError, match=said):
        film(policy(), tmp_path / "a.gif", environment=name, options=options)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_draws_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Gymnasium says of it is the sentence."""
    from memrl_ctrl.errors import MemrlError

    task = TaskSpec(
        environment="Pendulum-v1",
        kind="task",
        n_observation=3,
        action_low=(-2.0,),
        action_high=(2.0,),
    )
    player = TorchPolicy(untrained_policy(task, LstmTd3Config(history_length=2), seed=0))
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(MemrlError, match="pygame is not installed"):
        film(player, tmp_path / "a.gif", environment="Pendulum-v1", episodes=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the beam, hardly trained."""
    folder = tmp_path_factory.mktemp("video") / "run"
    changes = [
        "environment.options={n_slices: 32, episode_length: 3, program: psb-2gev}",
        "environment.num_envs=4", "agent.batch_size=8", "agent.start_steps=20",
        "agent.update_after=20", "agent.update_every=24", "agent.updates_per_round=1",
        "evaluation.options={}", "evaluation.episodes=3", "logging.tensorboard=false",
    ]  # fmt: skip
    words = [word for change in changes for word in ("--set", change)]
    assert main(["train", "psb", *words, "--steps", "48", "--out", str(folder)]) == 0
    return folder


def test_evaluate_renders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two episodes without `--episodes`; the table is of the evaluation's number; JSON names the file."""
    out = ["--render", str(tmp_path / "v.gif"), "--json", str(tmp_path / "f.json")]
    assert main(["evaluate", str(run), "--checkpoint", "48", *out]) == 0
    said = capsys.readouterr().out
    assert "3 held-out episodes" in said
    assert f"Video: {tmp_path / 'v.gif'} (2 episodes" in said
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["video"] == str(tmp_path / "v.gif")
    assert len(list(imageio.imiter(tmp_path / "v.gif"))) == 8


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--checkpoint", "7"], "has no checkpoint at step 7; there is: 48", 2),
        (["--env", "nope"], "no environment 'nope'", 2),
        (["--env", "memrl/Recall-v0"], "the policy sees (33,)", 6),
        (["--env", "memrl/BeamCycle-v0"], "give --set n_slices=32", 6),
        (
            ["--env", "memrl/Recall-v0", "--program", "psb-2gev"],
            "cannot be made so: it has no option 'program'",
            2,
        ),
        (["--render", "v.avi"], "must end in .mp4 or .gif", 2),
        (["--render", "/proc/new/v.gif"], "/proc/new/v.gif: cannot be written", 3),
    ],
)
def test_combinations_that_cannot_be_are_said_in_one_sentence(
    words: list[str], said: str, code: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No figures, no traceback."""
    assert main(["evaluate", str(run), *words]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_another_environment_of_the_same_sizes_is_judged(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy for shots, along the cycle."""
    words = ["--env", "memrl/BeamCycle-v0", "--set", "n_slices=32", "--set", "program=psb-2gev"]
    assert main(["evaluate", str(run), *words, "--episodes", "2"]) == 0
    assert "memrl/BeamCycle-v0, program psb-2gev, 2 held-out episodes" in capsys.readouterr().out


def test_a_task_that_is_a_wrapper_draws_what_it_wraps() -> None:
    """Its render modes are known only once it is made."""
    pytest.importorskip("pygame")
    env: Any = make_environment("memrl/CartPoleNoVel-v0", 1, {}, pictures=True)
    env.reset(seed=1)
    assert env.render()[0].std() > 0.0
    env.close()


# --- stages of learning -------------------------------------------------------------------------------


def test_the_same_episodes_are_shown_with_each_policy(tmp_path: Path) -> None:
    """Two stages of two episodes: those of the seeds 5 and 6 twice, with lines of text above."""
    stages = [Stage(policy=policy(), caption=(f"stage {n}", "of two")) for n in (1, 2)]
    video = film_stages(stages, tmp_path / "a.gif", environment="test/Lamp-v0", episodes=2, seed=5)
    assert video.returns == (4.0, 7.0, 4.0, 7.0)
    assert video.episodes == 4
    frames = [frame[..., :3] for frame in imageio.imiter(video.path)]
    # Enlarged 12 times, so that the text has room: 41 x 31 become 492 x 372 under the caption.
    assert frames[0].shape[1] == 492
    strip = frames[0].shape[0] - 372
    assert 40 < strip < 120
    assert frames[0][:strip].max() == 255
    assert frames[0][:strip].min() < 100
    pictures = [int(np.round(frame[strip + 2 :].mean() / 30.0)) for frame in frames]
    assert pictures == 2 * [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_long_caption_is_made_to_fit() -> None:
    """It is drawn smaller instead of running out of the picture."""
    frame = np.zeros((100, 500, 3), dtype=np.uint8)
    drawn = captioned(frame, ["x" * 200])
    assert drawn.shape[1] == 500
    assert (drawn[:-100, -4:] == 255).all()
    assert drawn[:-100].min() < 200


def test_steps_are_known_from_the_environment() -> None:
    """From its own time limit, the beam's episode length, MiniGrid's; else a thousand."""
    for name, options, most in (
        ("test/Lamp-v0", {}, 20),
        ("memrl/BeamPhase-v0", {"n_slices": 32, "episode_length": 7}, 7),
        ("memrl/Recall-v0", {}, 1_000),
    ):
        env = make_environment(name, 1, options)
        assert most_steps(Stepper(env, task_of(name, env))) == most
        env.close()


@pytest.mark.parametrize(
    ("found", "wanted", "chosen"),
    [
        ([1, 2, 3], 5, [1, 2, 3]),
        ([10, 20, 30, 40, 50], 3, [10, 30, 50]),
        ([10, 20, 30, 40, 50], 1, [50]),
        ([10, 11, 12, 100], 3, [10, 12, 100]),
        ([0, 1, 2, 3, 1000], 4, [0, 2, 3, 1000]),
        ([0, 997, 998, 999, 1000], 4, [0, 997, 998, 1000]),
    ],
)
def test_stages_are_spread_evenly(found: list[int], wanted: int, chosen: list[int]) -> None:
    """The first and the last, and the nearest to even steps between; each once, also where they lie close."""
    assert even_stages(found, wanted) == chosen


@settings(max_examples=100)
@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(1, 12))
def test_as_many_stages_as_can_be(found: set[int], wanted: int) -> None:
    """In order, without repetition, the last one always."""
    chosen = even_stages(sorted(found), wanted)
    assert len(chosen) == min(len(found), wanted)
    assert sorted(set(chosen)) == chosen
    assert chosen[-1] == max(found)
    assert wanted == 1 or chosen[0] == min(found)


def test_the_command_films_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one checkpoint one stage, and how more are kept."""
    out = tmp_path / "s.gif"
    assert main(["video", str(run), "--judged", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "there is 1 checkpoint, not 5: all are shown" in said
    assert "--set logging.checkpoint_every_steps=9" in said
    assert f"Video: {out} (1 stage, 1 episode," in said
    assert len(list(imageio.imiter(out))) == 4


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--checkpoints", "0"], "--checkpoints must be at least 1", 2),
        (["--out", "v.avi"], "must end in .mp4 or .gif", 2),
        (["--out", "TMP/there.gif"], "exists: give another name with --out, or --force", 2),
        (["--env", "Pendulum-v1", "--out", "TMP/a.gif"], "the policy sees (33,)", 6),
        (
            ["--env", "memrl/Recall-v0", "--out", "TMP/a.gif"],
            "'memrl/Recall-v0' draws no pictures",
            2,
        ),
        (["--set", "x", "--out", "TMP/a.gif"], "'x' is not of the form option=value", 2),
    ],
)
def test_a_film_of_stages_that_cannot_be_is_refused(
    *,
    words: list[str],
    said: str,
    code: int,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence, before anything is played; what is there stays as it is."""
    (tmp_path / "there.gif").write_text("kept")
    given = [word.replace("TMP", str(tmp_path)) for word in words]
    assert main(["video", str(run), *given]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["there.gif"]
    assert (tmp_path / "there.gif").read_text() == "kept"


def test_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without checkpoints, and none at all."""
    assert main(["video", str(tmp_path)]) == 3
    assert "has no checkpoints; it is no run folder" in capsys.readouterr().err
    assert main(["video", str(tmp_path / "none")]) == 3
    assert "is no run folder; `memrl-ctrl train` makes one" in capsys.readouterr().err
