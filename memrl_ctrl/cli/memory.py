"""`memrl-ctrl memory`: see what a policy remembers, and whether it uses it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.values import Count, OutputFolder, Seed, Steps, options_of, real
from memrl_ctrl.registry import extra_for
from memrl_ctrl.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from memrl_ctrl.training.memory.gathering import Compared
    from memrl_ctrl.training.memory.probe import Probe
    from memrl_ctrl.training.memory.study import Study

FASTEST_FPS = 1000.0
Options = Annotated[
    list[str] | None,
    Parameter(name="--set", negative="", help="`option=value` of the environment."),
]
Fps = Annotated[float, real(0.0, FASTEST_FPS, above=True, unit="steps a second")]


def memory(
    policy: Path,
    *,
    runs: Count = 3,
    episodes: Count = 200,
    seed: Seed | None = None,
    checkpoint: Steps | None = None,
    env: str | None = None,
    set_: Options = None,
    label: str | None = None,
    probe: bool = True,
    ablation: bool = True,
    video: bool = True,
    gif: Annotated[bool, Parameter(negative="")] = False,
    frames: Annotated[bool, Parameter(negative="")] = False,
    fps: Fps | None = None,
    out: Annotated[OutputFolder | None, Parameter(name=["--out", "-o"])] = None,
) -> None:
    """See what a policy remembers: its LSTM state over time, what can be read of it, and what it is worth.

    Pictures, a film and data of some episodes; a linear probe of what the memory holds; and the same
    episodes with the memory put back to its start at every step.

    Parameters
    ----------
    policy
        Run folder, or ONNX file.
    runs
        Episodes that are drawn and filmed.
    episodes
        Episodes behind the probe and the comparison.
    seed
        Of the episodes; default one that training never uses.
    checkpoint
        Environment steps of the run's checkpoint; default the last.
    env
        Another environment than it was trained on.
    label
        Info of the environment that the probe is to read of the memory, instead of what is known of the
        task.
    probe
        Whether it is tried what can be read of the memory.
    ablation
        Whether the episodes are played again with the memory cut.
    video
        Whether a film is made (memory.mp4).
    gif
        The film as a GIF.
    frames
        Also a PNG of each step.
    fps
        Steps a second of the film; default the environment's own speed, slower where it would soon be over.
    out
        Folder for what is written, new or empty; default `memory` in the run folder, or
        `NAME-memory` for NAME.onnx.
    """
    options = options_of(set_)
    with extra_for("memory"):
        from memrl_ctrl.training.memory.study import Wanted, study

        needs("memory", "matplotlib")
        console = Terminal(highlight=False)
        wanted = Wanted(
            runs=runs,
            episodes=episodes,
            probe=probe,
            ablation=ablation,
            frames=frames,
            video=("gif" if gif else "mp4") if video else None,
            fps=fps,
            label=label,
        )
        with ExitStack() as bars:

            def stage(words: str) -> None:
                bars.close()
                bars.enter_context(work_bar(Terminal(stderr=True), words))

            found = study(
                policy,
                folder_for(policy) if out is None else out,
                wanted,
                checkpoint=checkpoint,
                environment=env,
                options=options,
                seed=seed,
                stage=stage,
            )
    _show(console, found)


def folder_for(policy: Path) -> Path:
    """Return a folder that does not exist yet: `memory` in a run folder, beside a policy file otherwise."""
    first = policy / "memory" if policy.is_dir() else policy.with_name(f"{policy.stem}-memory")
    folder, number = first, 2
    while folder.exists():
        folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    return folder


def needs(what: str, *libraries: str) -> None:
    """Refuse to begin without libraries of the extra `plot`.

    Raises:
        MissingExtraError: one is not installed.
    """
    import importlib.util

    from memrl_ctrl.errors import MissingExtraError

    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError(what, library, "plot")


def _show(console: Terminal, found: Study) -> None:
    """Say what was found, and where it is."""
    if found.compared is not None:
        _show_ablation(console, found.compared, found.environment)
    if found.probes:
        _show_probes(console, found.probes)
    for note in found.notes:
        console.print(escape(f"Note: {note}."), soft_wrap=True)
    console.print(f"Written to {escape(str(found.folder))}:", soft_wrap=True)
    names = [str(file.relative_to(found.folder)) for file in found.files]
    console.print(escape("  " + ", ".join([*names, "summary.json"])), soft_wrap=True)


def _show_ablation(console: Terminal, compared: Compared, environment: str) -> None:
    from memrl_ctrl.training.memory.gathering import figures

    rows = {
        "with memory": figures(compared.remembering),
        "memory cut at every step": figures(compared.forgetting),
    }
    first = rows["with memory"]
    table = Table(title=f"{environment}: the same {first['episodes']} episodes")
    table.add_column("")
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "return": lambda f: f"{f['return_mean']:.4g} ± {f['return_std']:.2g}",
        "steps": lambda f: f"{f['length_mean']:.1f}",
    }
    if first["success_rate"] is not None:
        columns["success"] = lambda f: _known(f["success_rate"], "{:.1%}")
    if first["last_phase_error_deg_median"] is not None:
        columns["phase error at the end (deg)"] = lambda f: _known(
            f["last_phase_error_deg_median"], "{:.2f}"
        )
    for heading in columns:
        table.add_column(heading, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(show(values) for show in columns.values()))
    console.print(table)
    low, high = compared.interval
    verdict = (
        "the policy uses its memory"
        if low > 0.0
        else "cutting the memory helps"
        if high < 0.0
        else "that is not told from chance; more --episodes narrow it"
    )
    console.print(
        f"Memory is worth {compared.difference:.4g} of return (95 % interval {low:.4g} to {high:.4g}): "
        f"{verdict}."
    )


def _known(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _show_probes(console: Terminal, probes: Sequence[Probe]) -> None:
    table = Table(title="What can be read of the memory (linear probe, episodes held out)")
    for heading in ("secret", "score"):
        table.add_column(heading)
    for heading in ("memory", "95 % interval", "present observation", "chance", "longest lag"):
        table.add_column(heading, justify="right")
    for probe in probes:
        low, high = probe.interval
        scores = probe.overall
        last = probe.by_lag[-1]
        table.add_row(
            escape(probe.secret.name),
            probe.score_words,
            f"{scores.memory:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{scores.observation:.3f}",
            f"{scores.chance:.3f}",
            f"{last.memory:.3f} after {last.first} to {last.last}",
        )
    console.print(table)
    for probe in probes:
        if probe.error_deg is not None:
            mine, seen = probe.error_deg
            console.print(
                f"{escape(probe.secret.name)}: median error {mine:.1f} deg from the memory, {seen:.1f} deg "
                "from the present observation.",
                soft_wrap=True,
            )
