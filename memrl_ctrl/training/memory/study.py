"""Everything that there is to see of a policy's memory, into a folder.

```
OUT/summary.json               what was found
OUT/memory.mp4                 the episodes: world, agent's view, LSTM state, actions and value
OUT/episode-01.png             state over time, its two leading components, actions, value, secrets
OUT/episode-01-sheet.png       contact sheet of its pictures
OUT/episode-01.npz, .csv       its arrays, and the numbers of each step
OUT/frames/episode-01/         a picture of each step, where they are wanted
OUT/probe.png, probe.csv       what can be read of the memory, against the time since it was seen
```
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memrl_ctrl.errors import UsageError
from memrl_ctrl.outputs import check_output_folder, output_file, write_json, write_output
from memrl_ctrl.progress import report
from memrl_ctrl.training.evaluation import occasion_of
from memrl_ctrl.training.memory.episode import Episode, Stage, write_arrays, write_table
from memrl_ctrl.training.memory.gathering import Compared, Occasion, cut, figures, gather
from memrl_ctrl.training.memory.insight import Insight, open_insight
from memrl_ctrl.training.memory.labels import OwnLabel
from memrl_ctrl.training.memory.probe import FEWEST_EPISODES, Probe, fit_probe
from memrl_ctrl.training.memory.recording import Moments, Played, open_watched
from memrl_ctrl.training.memory.secrets import Secret, secrets_of
from memrl_ctrl.training.memory.space import Space, actor_units
from memrl_ctrl.training.video import HELD_S, Frame, check_video, film_writer
from memrl_ctrl.training.watching import Watched

LEAST_FILM_S = 8.0
"""A film of episodes that would be shorter at the environment's speed is slowed down to this."""
SLOWEST_FPS = 2.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be made."""

    runs: int = 3
    """Episodes that are drawn and filmed."""
    episodes: int = 200
    """Episodes behind the probe and the comparison."""
    probe: bool = True
    """Whether it is tried what can be read of the memory."""
    ablation: bool = True
    """Whether the same episodes are played with the memory cut."""
    frames: bool = False
    """Whether each step of the drawn episodes becomes a PNG."""
    video: str | None = "mp4"
    """Kind of the film; None for none."""
    fps: float | None = None
    """Steps a second of the film; None: as the environment says, slower where it would be over soon."""
    label: str | None = None
    """Info of the environment that the probe is to read, instead of what is known of the task."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What was found and written."""

    folder: Path
    environment: str
    played: Played | None
    """The episodes behind the probe, with memory; None where there are none."""
    compared: Compared | None
    """With memory and without; None where it was not wanted."""
    probes: tuple[Probe, ...]
    """What can be read of the memory."""
    notes: tuple[str, ...]
    """What could not be seen, in words."""
    files: tuple[Path, ...]
    """What was written, the most interesting first."""


@dataclass
class _Work:
    """What a study carries from part to part."""

    insight: Insight
    environment: str
    options: dict[str, Any]
    seed: int
    title: str
    secrets_in: Callable[[Watched], Sequence[Secret]]
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def study(
    source: Path,
    out: Path,
    wanted: Wanted | None = None,
    *,
    checkpoint: int | None = None,
    environment: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    stage: Callable[[str], None] = lambda words: None,
) -> Study:
    """Play, look, compare, draw and write.

    Args:
        source: run folder or ONNX file.
        out: folder for what is written; new or empty.
        wanted: what is to be made.
        checkpoint: environment steps of a run's checkpoint; without it the last.
        environment: another environment than it was trained on.
        options: environment options that differ from those of the training.
        seed: of the episodes; without it as the training's configuration says.
        stage: called with what begins; progress is reported (`memrl_ctrl.progress`).

    Raises:
        FileError, UsageError, MismatchError, MissingExtraError: it cannot be done, said before the work.
    """
    wanted = wanted or Wanted()
    work = _prepared(
        source,
        out,
        wanted,
        checkpoint=checkpoint,
        environment=environment,
        options=dict(options or {}),
        seed=seed,
    )
    many = _Many()
    if wanted.probe or wanted.ablation:
        many = _gathered(work, wanted, stage)
    stage("drawing")
    space = _drawn_episodes(work, out, wanted, many.probes, many.moments)
    if many.moments is not None and many.probes:
        _write_probes(work, out, many.probes, many.moments, space)
    result = Study(
        folder=out,
        environment=work.environment,
        played=many.played,
        compared=many.compared,
        probes=tuple(many.probes),
        notes=tuple(work.notes),
        files=tuple(work.files),
    )
    _write_summary(out, work, result, source)
    return result


def _prepared(
    source: Path,
    out: Path,
    wanted: Wanted,
    *,
    checkpoint: int | None,
    environment: str | None,
    options: dict[str, Any],
    seed: int | None,
) -> _Work:
    """Try everything that can be wrong before the work begins."""
    if wanted.runs < 1:
        raise UsageError(f"runs must be at least 1, not {wanted.runs}")
    if wanted.episodes < 1:
        raise UsageError(f"episodes must be at least 1, not {wanted.episodes}")
    if wanted.probe and wanted.episodes < FEWEST_EPISODES:
        raise UsageError(
            f"the probe is fitted to some episodes and tested on others: it needs {FEWEST_EPISODES} or "
            f"more, not {wanted.episodes}; or go without it (--no-probe)"
        )
    if wanted.label is not None and not wanted.probe:
        raise UsageError("--label names what the probe is to read: leave out --no-probe")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty: choose another folder with --out")
    check_output_folder(out)
    if wanted.video is not None:
        check_video(out / f"memory.{wanted.video}")
    insight = open_insight(source, checkpoint)
    occasion = occasion_of(insight, seed=seed, environment=environment, options=options)
    name, settings = occasion["environment"], occasion["options"]
    secrets_in: Callable[[Watched], Sequence[Secret]] = secrets_of
    stepper, watched = open_watched(insight, name, 1, settings, pictures=False)
    try:
        stepper.reset(occasion["seed"])
        if wanted.label is not None:
            secrets_in = label = OwnLabel(wanted.label, name)
            label.check(stepper, watched)
        known = secrets_in(watched)
    finally:
        stepper.close()
    title = f"{insight.manifest.name}, {name}"
    if insight.manifest.training.steps:
        title += f", {insight.manifest.training.steps:,} steps"
    work = _Work(insight, name, settings, occasion["seed"], title, secrets_in, list(insight.notes))
    if wanted.probe and not known:
        work.notes.append(
            f"what {name!r} hides is not known here, so that nothing is read from the memory: name an "
            "info of the environment with --label"
        )
    return work


@dataclass(frozen=True, kw_only=True)
class _Many:
    """What many episodes brought; nothing where none were played."""

    played: Played | None = None
    compared: Compared | None = None
    moments: Moments | None = None
    probes: Sequence[Probe] = ()


def _gathered(work: _Work, wanted: Wanted, stage: Callable[[str], None]) -> _Many:
    """Play many episodes, with memory and without, and read the memory."""
    occasion = Occasion(
        environment=work.environment,
        options=work.options,
        episodes=wanted.episodes,
        seed=work.seed,
    )
    stage(f"{wanted.episodes} episodes with memory")
    played, moments, secrets = gather(work.insight, occasion, work.secrets_in)
    compared = None
    if wanted.ablation:
        stage("the same episodes without memory")
        compared = cut(work.insight, occasion, played)
    found: list[Probe] = []
    if wanted.probe:
        stage("reading the memory")
        found = _probed(work, secrets, moments)
    return _Many(played=played, compared=compared, moments=moments, probes=found)


def _probed(work: _Work, secrets: Sequence[Secret], moments: Moments) -> list[Probe]:
    """Probe the secrets, and say which could not be."""
    if isinstance(work.secrets_in, OwnLabel):
        secrets = (work.secrets_in.resolved(secrets[0], moments.hidden[:, 0]),)
    found = []
    units = actor_units(work.insight.blocks)
    for column, secret in enumerate(secrets):
        report(column, len(secrets))
        one = fit_probe(moments, secret, column, units)
        found += [] if one is None else [one]
    report(1, 1)
    missing = {secret.name for secret in secrets} - {probe.secret.name for probe in found}
    work.notes += [f"{name}: too little of it was seen to probe it" for name in sorted(missing)]
    return found


def _drawn_episodes(
    work: _Work, out: Path, wanted: Wanted, found: Sequence[Probe], moments: Moments | None
) -> Space:
    """Play, draw, film and write single episodes; return how states are shown."""
    from memrl_ctrl.training.memory.picture import draw_episode, draw_sheet
    from memrl_ctrl.training.memory.screen import Screen

    place = Stage(work.insight, work.environment, work.options)
    if place.note is not None:
        work.notes.append(f"no pictures of the world: {place.note}")
    space = None if moments is None else Space.of(moments.state, work.insight.blocks)
    later: list[Path] = []
    with ExitStack() as stack:
        stack.callback(place.close)
        film = None
        for number in range(1, wanted.runs + 1):
            report(number - 1, wanted.runs)
            episode = place.play(number, work.seed + number - 1, work.secrets_in)
            if space is None:
                space = Space.of(episode.moments.state, work.insight.blocks)
            if wanted.video is not None and film is None:
                film = _Film(stack, out / f"memory.{wanted.video}", place, episode, wanted.fps)
                work.files.append(film.path)
            title = f"{work.title}, episode {number}"
            stem = out / f"episode-{number:02d}"
            others = episode.moments if moments is None else moments
            cloud = space.plane(others.state[:: -(-len(others.row) // 20_000)])
            draw_episode(
                stem.with_suffix(".png"), episode, space, probes=found, title=title, cloud=cloud
            )
            later.append(stem.with_suffix(".png"))
            if episode.worlds or episode.agents:
                draw_sheet(stem.with_name(f"{stem.name}-sheet.png"), episode, title)
                later.append(stem.with_name(f"{stem.name}-sheet.png"))
            write_arrays(stem.with_suffix(".npz"), episode, space)
            write_table(stem.with_suffix(".csv"), episode, space, _said(episode, found))
            later += [stem.with_suffix(".npz"), stem.with_suffix(".csv")]
            folder = out / "frames" / stem.name if wanted.frames else None
            if film is not None or folder is not None:
                _film_episode(film, folder, episode, Screen(episode, space, found, title).frames())
            if folder is not None:
                later.append(folder)
    report(1, 1)
    work.files += later
    if space is None:
        raise UsageError("no episode was played")
    return space


class _Film:
    """A film that episodes are appended to.

    Args:
        stack: which closes it.
        path: of the file.
        place: where the episodes are played.
        first: the first of them, whose length decides the speed.
        fps: steps a second, where it is given.
    """

    def __init__(
        self, stack: ExitStack, path: Path, place: Stage, first: Episode, fps: float | None
    ) -> None:
        self.path = path
        slow = max(first.steps / LEAST_FILM_S, SLOWEST_FPS)
        steps_a_second = min(place.fps, slow) if fps is None else fps
        fastest = 25.0 if path.suffix == ".gif" else 60.0
        self.fps = min(max(steps_a_second / first.stride, 0.1), fastest)
        partial = stack.enter_context(output_file(path))
        self.write = stack.enter_context(film_writer(partial, self.fps))


def _film_episode(
    film: _Film | None, folder: Path | None, episode: Episode, frames: Iterator[Frame]
) -> None:
    """Write an episode's frames into the film, and into a folder."""
    from PIL import Image

    frame = None
    for number, frame in enumerate(frames):
        if film is not None:
            film.write(frame)
        if folder is not None:
            with output_file(folder / f"step-{number * episode.stride:05d}.png") as partial:
                Image.fromarray(frame).save(partial)
    if film is not None and frame is not None:
        for _ in range(round(HELD_S * film.fps)):
            film.write(frame)


def _said(episode: Episode, found: Sequence[Probe]) -> list[tuple[str, Any]]:
    """Return what the probes say at each step of an episode, with names of columns."""
    columns = []
    for probe in found:
        said = probe.decode(episode.moments.state)
        names = probe.secret.classes or ("",)
        for at, name in enumerate(names):
            words = f"memory says: {probe.secret.name}"
            columns.append((f"{words}: p({name})" if name else words, said[:, at]))
    return columns


def _write_probes(
    work: _Work, out: Path, found: Sequence[Probe], moments: Moments, space: Space
) -> None:
    """Draw the probes' scores, and write them as a table."""
    from memrl_ctrl.training.memory.picture import draw_probes

    draw_probes(out / "probe.png", found, moments, space, f"{work.title}: what the memory holds")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = ("first", "last", "decisions", "memory", "observation", "chance")
    writer.writerow(("secret", "score", "since", *names))
    for probe in found:
        rows = (probe.before, *probe.by_lag)
        for row in rows:
            if row is not None:
                values = [f"{getattr(row, name):.6g}" for name in names]
                writer.writerow((probe.secret.name, probe.score_words, probe.secret.since, *values))
    write_output(out / "probe.csv", text.getvalue())
    films = sum(file.stem == "memory" for file in work.files)
    work.files[films:films] = [out / "probe.png", out / "probe.csv"]


def _write_summary(out: Path, work: _Work, result: Study, source: Path) -> None:
    training = work.insight.manifest.training
    write_json(
        out / "summary.json",
        {
            "policy": str(source),
            "algorithm": training.algorithm,
            "steps": training.steps,
            "environment": work.environment,
            "options": work.options,
            "seed": work.seed,
            "units": {block.name: block.size for block in work.insight.blocks},
            "with_memory": None if result.played is None else figures(result.played),
            "ablation": None if result.compared is None else result.compared.as_json(),
            "probes": [probe.as_json() for probe in result.probes],
            "notes": list(result.notes),
        },
    )
