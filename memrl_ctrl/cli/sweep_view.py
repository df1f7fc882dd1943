"""How a sweep stands, as `memrl-ctrl sweep` shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from memrl_ctrl.terminal import Terminal
from memrl_ctrl.training.sweep.words import duration, shown

if TYPE_CHECKING:
    from memrl_ctrl.training.sweep.running import Standing
    from memrl_ctrl.training.sweep.trial import TrialRun

EVERY_S = 30.0
"""Time between lines where the output is no terminal, s."""
LONGEST = 60
"""Letters of a trial's settings that are shown."""


@contextmanager
def standing_shown(console: Terminal) -> Iterator[Callable[[Standing], None]]:
    """A bar for the sweep and one for each running trial; a plain line twice a minute elsewhere."""
    if not console.is_terminal:
        said: list[float] = []

        def line(now: Standing) -> None:
            if not said or time.monotonic() - said[-1] >= EVERY_S:
                said.append(time.monotonic())
                going = ", ".join(
                    f"trial {run.trial.number} {100 * run.fraction:.0f} %" for run in now.running
                )
                text = f"{now.finished} of {now.budget} trials; {words_of(now)}; {going}"
                console.print(escape(text), soft_wrap=True)

        yield line
        return
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as bars:
        whole = bars.add_task("sweep", total=1.0, words="")
        tasks: dict[int, TaskID] = {}

        def draw(now: Standing) -> None:
            begun = sum(run.fraction for run in now.running)
            words = f"{now.finished}/{now.budget} trials, {words_of(now)}"
            bars.update(whole, completed=(now.finished + begun) / now.budget, words=escape(words))
            running = {run.trial.number: run for run in now.running}
            for number in [one for one in tasks if one not in running]:
                bars.remove_task(tasks.pop(number))
            for number, run in running.items():
                if number not in tasks:
                    tasks[number] = bars.add_task(f"trial {number}", total=1.0, words="")
                words = escape(settings_of(run))
                bars.update(tasks[number], completed=run.fraction, words=words)

        yield draw


def words_of(now: Standing) -> str:
    """Return what there is to say of a whole sweep."""
    words = []
    if now.best is not None:
        words.append(f"best {now.best:.4g} (trial {now.best_trial})")
    if now.pruned:
        words.append(f"{now.pruned} ended early")
    if now.failed:
        words.append(f"{now.failed} failed")
    left = "" if now.remaining_s is None else f", about {duration(now.remaining_s)} left"
    return ", ".join([*words, f"{duration(now.seconds)}{left}"])


def settings_of(run: TrialRun) -> str:
    """Return a trial's figure so far and its settings, cut to what a line takes."""
    settings = ", ".join(
        f"{one.short} {shown(run.settings[one.name])}" for one in run.sweep.parameters
    )
    cut = settings if len(settings) <= LONGEST else settings[: LONGEST - 1] + "…"
    return cut if run.value is None else f"{run.value:.4g}  {cut}"
