"""`memrl-ctrl video`: the stages of learning of a run in one film."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.markup import escape

from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.memory import Fps, Options, needs
from memrl_ctrl.cli.values import Count, OutputFile, Seed, Steps, options_of
from memrl_ctrl.errors import UsageError
from memrl_ctrl.progress import report
from memrl_ctrl.registry import extra_for
from memrl_ctrl.terminal import Terminal

if TYPE_CHECKING:
    from memrl_ctrl.training.video import Stage


def video(
    run: Path,
    *,
    checkpoints: Count = 5,
    episodes: Count = 1,
    judged: Steps = 20,
    seed: Seed | None = None,
    env: str | None = None,
    set_: Options = None,
    fps: Fps | None = None,
    out: Annotated[OutputFile | None, Parameter(name=["--out", "-o"])] = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Film the stages of learning of a run: the same episodes with one checkpoint after the other.

    Parameters
    ----------
    run
        Run folder.
    checkpoints
        Stages, chosen evenly from the first checkpoint to the last.
    episodes
        Episodes of each.
    judged
        Episodes behind the return that is written above; 0: none is written.
    seed
        Of the episodes; default one that training never uses.
    env
        Another environment than it was trained on.
    fps
        Steps a second; default the environment's own speed.
    out
        The film, .mp4 or .gif; default `stages.mp4` in the run folder.
    force
        Replace the film, where it exists.
    """
    console = Terminal(highlight=False)
    options = options_of(set_)
    path = run / "stages.mp4" if out is None else out
    with extra_for("video"):
        from memrl_ctrl.training import checkpoint as files
        from memrl_ctrl.training.evaluation import load_any, occasion_of
        from memrl_ctrl.training.video import check_drawn, check_video, film_stages

        needs("video", "imageio", "PIL")
        found = files.all_of(run)
        check_video(path)
        if path.exists() and not force:
            raise UsageError(
                f"{path} exists: give another name with --out, or --force to replace it"
            )
        chosen = even_stages(found, checkpoints)
        last = load_any(run, chosen[-1])
        occasion = occasion_of(last, episodes=episodes, seed=seed, environment=env, options=options)
        check_drawn(last, occasion["environment"], occasion["options"])
        if len(found) < checkpoints:
            console.print(_how_to_keep_more(run, found, checkpoints), soft_wrap=True)
        with work_bar(Terminal(stderr=True), "judging"):
            stages = [
                _stage(run, chosen, at, occasion=occasion, judged=judged)
                for at in range(len(chosen))
            ]
            report(1, 1)
        with work_bar(Terminal(stderr=True), "filming"):
            film = film_stages(stages, path, **occasion, fps=fps, progress=report)
    count = "1 stage" if len(chosen) == 1 else f"{len(chosen)} stages"
    played = "1 episode" if film.episodes == 1 else f"{film.episodes} episodes"
    pictures = f"{count}, {played}, {film.frames / film.fps:.0f} s"
    console.print(f"Video: {escape(str(film.path))} ({pictures})", soft_wrap=True)


def even_stages(found: list[int], wanted: int) -> list[int]:
    """Return evenly spread checkpoints, by their steps: the first, the last, and the nearest between."""
    if len(found) <= wanted:
        return found
    if wanted == 1:
        return found[-1:]
    chosen = [found[0]]
    for number in range(1, wanted - 1):
        aim = found[0] + (found[-1] - found[0]) * number / (wanted - 1)
        # As many must be left behind it as there are stages to come.
        free = [
            steps for steps in found[: len(found) - (wanted - 1 - number)] if steps > chosen[-1]
        ]
        chosen.append(min(free, key=lambda steps: abs(steps - aim)))
    return [*chosen, found[-1]]


def _stage(
    run: Path, chosen: list[int], at: int, *, occasion: dict[str, Any], judged: int
) -> Stage:
    """Load a checkpoint's policy, and judge it for its caption."""
    from memrl_ctrl.training.evaluation import load_any, run_episodes
    from memrl_ctrl.training.video import Stage

    report(at, len(chosen))
    policy = load_any(run, chosen[at])
    lines = [f"stage {at + 1} of {len(chosen)}: after {chosen[at]:,} steps"]
    if judged:
        result = run_episodes(policy, **{**occasion, "episodes": judged})
        spread = result.returns.std(ddof=1) if judged > 1 else 0.0
        many = "1 episode" if judged == 1 else f"{judged} episodes"
        lines.append(f"mean return {result.returns.mean():.4g} ± {spread:.2g} over {many}")
    return Stage(policy=policy, caption=tuple(lines))


def _how_to_keep_more(run: Path, found: list[int], wanted: int) -> str:
    """Say that there are fewer checkpoints than wanted, and what keeps more of the next run."""
    every = max(found[-1] // wanted, 1)
    are = "is 1 checkpoint" if len(found) == 1 else f"are {len(found)} checkpoints"
    return escape(
        f"Of {run} there {are}, not {wanted}: all are shown. To keep more of the next run, train it with "
        f"--set logging.checkpoint_every_steps={every}"
    )
