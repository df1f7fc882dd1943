"""`memrl-ctrl bench beam`: the table, its cells one after the other."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memrl_ctrl import controllers
from memrl_ctrl.bench.beam.conditions import PROGRAMS, RANDOM, USUAL, Condition, chosen
from memrl_ctrl.bench.beam.figures import AFTER, AFTER_SHARE, figures
from memrl_ctrl.bench.beam.picture import draw
from memrl_ctrl.bench.beam.play import CUT, Forgetful, Played, Player, check_player, play
from memrl_ctrl.bench.beam.store import Store, key_of
from memrl_ctrl.bench.beam.summary import sentences, standings
from memrl_ctrl.bench.report import as_markdown, publish
from memrl_ctrl.cli.values import Count, JsonFile, OutputFile, OutputFolder, Seed
from memrl_ctrl.errors import UsageError
from memrl_ctrl.outputs import STDOUT, write_output
from memrl_ctrl.policy.catalogue import locate
from memrl_ctrl.terminal import Terminal

EPISODES = 500
SEED = 20_260_801
"""No training, evaluation or tuning uses it."""
COLUMNS = (
    "controller",
    "condition",
    f"median after {AFTER}",
    "interval",
    f"p95 after {AFTER}",
    "its interval",
    f"within 2 deg after {AFTER_SHARE}",
    "late median",
    "late p95",
    "rest beyond 5",
    "shots to stay",
    "never",
    "worst late",
    "worst step",
    "us a row",
    "no reference",
    "of them turning",
)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A policy or controller in the table."""

    name: str
    player: Player
    digest: str
    ablated: bool = False
    policy: bool = False
    """A policy that is judged, not a rival."""


def run(
    json_path: Annotated[JsonFile | None, Parameter(show=False)] = None,
    *,
    policy: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    controllers_: Annotated[
        list[str] | None, Parameter(name="--controllers", consume_multiple=True, negative="")
    ] = None,
    conditions: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    episodes: Annotated[Count, Parameter()] = EPISODES,
    seed: Annotated[Seed, Parameter()] = SEED,
    program: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    cut_memory: Annotated[bool, Parameter(negative="")] = False,
    shots: Annotated[Count | None, Parameter()] = None,
    out: Annotated[OutputFolder | None, Parameter()] = None,
    markdown: Annotated[OutputFile | None, Parameter()] = None,
) -> None:
    """Policies against classical controllers on the beam: phase errors by condition.

    Every contestant meets the same machine, bunches and noise, and the same limits. Phase errors leave out
    the jitter of the shot itself, which nobody can foresee.

    Parameters
    ----------
    policy
        Policy files, run folders or shipped policies.
    controllers_
        Names of controllers, or `all`.
    conditions
        Names of conditions, or `all`, `programs` (points of cycle programs), `random` (uniformly random
        points). Without it, `all`.
    episodes
        Episodes of each cell.
    seed
        Of machine, bunches and noise.
    program
        Programs by name or file whose points the conditions are drawn from, in the place of those shipped.
    cut_memory
        Play each policy once more with its memory cut: reset before every shot.
    shots
        Shots of an episode, in the place of the conditions' own (30; 10 where BLonD tracks).
    out
        Keep every cell here, and draw phase error against shot; the same command then goes on where it was
        interrupted.
    markdown
        Also write the tables to this file, as Markdown.
    """
    console = Terminal(stderr=str(json_path) == STDOUT)
    met = chosen(conditions or ["all"])
    if shots is not None:
        met = [replace(each, shots=shots) for each in met]
    contestants = _contestants(policy or [], controllers_ or [], ablate=cut_memory)
    programs = [str(each) for each in program] if program else list(PROGRAMS)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cells = _play_all(
            contestants,
            met,
            {"episodes": episodes, "seed": seed, "programs": programs},
            folder=folder,
            store=Store(out),
            console=console,
        )
    found = {(who.name, each.name): figures(played) for who, each, played in cells}
    rows = [_row(who, each, found[who.name, each.name]) for who, each, _ in cells]
    notes = _notes(met, programs, episodes, seed)
    said = _said(found, contestants)
    publish(
        name="beam",
        columns=COLUMNS,
        rows=rows,
        figures=_figures(found),
        json_path=json_path,
        notes=[*notes, *said],
        console=console,
    )
    if markdown is not None:
        write_output(markdown, as_markdown(rows, [*notes, *said], "condition"))
        console.print(f"written: {markdown}", highlight=False)
    if out is not None:
        _draw(cells, out, console)


def _contestants(
    policies: Sequence[Path], names: Sequence[str], *, ablate: bool
) -> list[Contestant]:
    wanted = [
        name for given in names for name in (controllers.available() if given == "all" else [given])
    ]
    found = []
    for name in dict.fromkeys(wanted):
        driven = controllers.drive(name)
        found.append(Contestant(name=name, player=driven, digest=driven.digest))
    for path in policies:
        found += _policy(path, ablate=ablate)
    if not found:
        raise UsageError(
            "nothing to compare: give --policy FILE, --controllers NAME, or --controllers all "
            f"(controllers: {', '.join(controllers.available())})"
        )
    names_found = [each.name for each in found]
    for name in names_found:
        if names_found.count(name) > 1:
            raise UsageError(f"two contestants are called {name!r}: rename one of the files")
    for each in found:
        check_player(each.player, int(USUAL["n_slices"]), each.name)
    return found


def _policy(path: Path, *, ablate: bool) -> list[Contestant]:
    player: Any
    located = locate(path)
    if located.is_dir():
        from memrl_ctrl.training.evaluation import load_any

        player = load_any(located)
        weights = b"".join(
            value.detach().cpu().numpy().tobytes() for value in player.module.state_dict().values()
        )
        digest = hashlib.sha256(weights).hexdigest()
    else:
        from memrl_ctrl.policy.runner import OnnxPolicy

        player = OnnxPolicy.load(located)
        digest = player.digest
    name = path.name.removesuffix(".onnx")
    found = [Contestant(name=name, player=player, digest=digest, policy=True)]
    if ablate and player.manifest.memory:
        found.append(
            Contestant(name=name + CUT, player=Forgetful(player), digest=digest, ablated=True)
        )
    return found


Cell = tuple[Contestant, Condition, Played]


def _play_all(
    contestants: Sequence[Contestant],
    conditions: Sequence[Condition],
    settings: dict[str, Any],
    *,
    folder: Path,
    store: Store,
    console: Terminal,
) -> list[Cell]:
    cells: list[Cell] = []
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with progress:
        bar = progress.add_task("", total=float(len(contestants) * len(conditions)))
        for condition in conditions:
            for who in contestants:
                progress.update(bar, description=f"{who.name} in {condition.name}")
                key = key_of(who.digest, condition, ablated=who.ablated, **settings)
                played = store.load(who.name, condition.name, key)
                if played is None:
                    played = play(
                        who.player,
                        condition,
                        folder=folder,
                        advance=lambda share: progress.advance(bar, share),
                        **settings,
                    )
                    store.save(who.name, condition.name, key, played)
                else:
                    progress.advance(bar, 1.0)
                cells.append((who, condition, played))
    return cells


def _row(who: Contestant, condition: Condition, found: dict[str, float]) -> dict[str, Any]:
    def interval(name: str) -> str:
        if f"{name}_low" not in found:
            return ""
        return f"{found[f'{name}_low']:.3g}-{found[f'{name}_high']:.3g}"

    nan = math.nan
    median, p95 = f"median_deg_after_{AFTER}", f"p95_deg_after_{AFTER}"
    return dict(
        zip(
            COLUMNS,
            (
                who.name,
                condition.name,
                _or_dash(found.get(median, nan)),
                interval(median),
                _or_dash(found.get(p95, nan)),
                interval(p95),
                _or_dash(found.get(f"share_within_2_deg_after_{AFTER_SHARE}", nan)),
                _or_dash(found.get("late_median_deg", nan)),
                _or_dash(found.get("late_p95_deg", nan)),
                _or_dash(found.get("share_resting_beyond_5_deg", nan)),
                _or_dash(found.get("shots_to_stay", nan)),
                _or_dash(found.get("share_never", nan)),
                _or_dash(found.get("late_worst_deg", nan)),
                _or_dash(found.get("worst_step_deg", nan)),
                found["decision_us_a_row"],
                int(found["without_reference"]),
                _or_dash(found.get("share_turning_without_reference", nan)),
            ),
            strict=True,
        )
    )


def _or_dash(value: float) -> float | str:
    """Return a number as it is; a dash for one that is not finite, which JSON does not have."""
    return value if math.isfinite(value) else "-"


Found = Mapping[tuple[str, str], Mapping[str, float]]


def _figures(found: Found) -> dict[str, float]:
    return {
        f"{who}.{condition}.{name}": value
        for (who, condition), values in found.items()
        for name, value in values.items()
        if math.isfinite(value)
    }


def _said(found: Found, contestants: Sequence[Contestant]) -> list[str]:
    judged = [each.name for each in contestants if each.policy]
    rivals = [each.name for each in contestants if not each.policy and not each.ablated]
    return sentences(standings(found, judged, rivals))


def _draw(cells: Sequence[Cell], out: Path, console: Terminal) -> None:
    for kind, is_random in (("programs", False), ("random", True)):
        panels: dict[str, list[tuple[str, Played]]] = {}
        for who, condition, played in cells:
            if condition.is_random is is_random:
                panels.setdefault(condition.name, []).append((who.name, played))
        path = draw(panels, out / f"{kind}.png") if panels else None
        if path is not None:
            console.print(f"picture: {path}", highlight=False)


def _notes(
    conditions: Sequence[Condition], programs: Sequence[str], episodes: int, seed: int
) -> list[str]:
    low, high = USUAL["filling"]
    return [
        f"{USUAL['n_slices']} slices a turn, {USUAL['noise']:.0%} of the peak as noise in each slice "
        "unless the condition says otherwise; "
        f"monitor {USUAL['monitor']}, emittance {low} to {high} of the bucket, 1e11 to 1e13 protons, "
        "offset unknown over the whole circle.",
        f"{episodes} episodes, seed {seed}. Points of {', '.join(programs)}; of the whole operating range "
        "where the name begins with random-. Errors in degrees, without the jitter of the shot itself; "
        "episodes without a reference optimum are counted apart.",
        *dict.fromkeys(
            f"{each.name.removeprefix(f'{RANDOM}-')}: {each.words}." for each in conditions
        ),
    ]
