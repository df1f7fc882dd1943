"""Where a run's figures go: lines of JSON, TensorBoard, Weights & Biases, and a picture at the end.

`metrics.jsonl` has the figures by their plain names (`return`, `critic_loss`); TensorBoard and Weights &
Biases show them in groups (`train/return`, `losses/critic_loss`), see `grouped`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.config import TrainingConfig, dump, to_dict
from memrl_ctrl.errors import MissingExtraError
from memrl_ctrl.outputs import output_file, write_output

if TYPE_CHECKING:
    from collections.abc import Callable

METRICS = "metrics.jsonl"
CURVE = "learning_curve.png"
BINS = 64
"""Bins of a histogram."""
JUDGED_BY = (
    "return",
    "evaluation_return",
    "phase_error_deg_median",
    "evaluation_phase_error_deg_median",
)
"""Figures that TensorBoard shows beside the hyperparameters."""


GROUPS = {
    "evaluation_": "evaluation",
    "phase_error_": "beam",
    "priority": "priorities",
    "memory_": "memory",
    "weights_": "weights",
    "gradients_": "gradients",
    "return": "train",
    "episode": "train",
    "action": "train",
    "seconds": "time",
    "steps_per_s": "time",
    "updates": "time",
    "rss_": "process",
    "replay_": "process",
}
"""How the name of a figure begins, and the group that it is shown in; what begins otherwise is of losses."""


def grouped(name: str) -> str:
    """Return a figure's name with its group, for example `train/return` or `evaluation/return`."""
    if name == "lr" or name.endswith("_lr"):
        return f"learning_rates/{name.removesuffix('_lr')}"
    found = (group for start, group in GROUPS.items() if name.startswith(start))
    group = next(found, "losses")
    return f"{group}/{name.removeprefix(f'{group}_')}"


class Logger(Protocol):
    """Takes figures while a run goes on."""

    def log(self, steps: int, figures: Mapping[str, float]) -> None:
        """Keep figures of a moment.

        Args:
            steps: environment steps so far.
            figures: name and value; NaN is left out.
        """
        ...

    def histograms(self, steps: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Keep distributions of a moment.

        Args:
            steps: environment steps so far.
            values: name and values [any number].
        """
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


def check_loggers(config: TrainingConfig) -> None:
    """Refuse, before a run, what it could not log to.

    Raises:
        MissingExtraError: a library that the configuration asks for is not installed.
    """
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise MissingExtraError("logging.wandb", "Weights & Biases", "wandb")


def make_loggers(config: TrainingConfig, folder: Path, *, after: int = 0) -> list[Logger]:
    """Return where a run's figures go.

    Args:
        config: the resolved configuration.
        folder: the run folder.
        after: steps that a run to go on with has done; what it logged behind them is dropped.
    """
    loggers: list[Logger] = [JsonLines(folder, after=after)]
    if config.logging.tensorboard:
        loggers.append(TensorBoard(folder, config, after=after))
    if config.logging.wandb:
        loggers.append(WeightsAndBiases(folder, config))
    return loggers


class JsonLines:
    """One JSON object a line, in `metrics.jsonl`.

    Args:
        folder: the run folder.
        after: steps that a run to go on with has done; what it logged behind them is dropped.
    """

    def __init__(self, folder: Path, *, after: int = 0) -> None:
        path = folder / METRICS
        if path.exists():
            kept = [row for row in read_metrics(folder) if row["steps"] <= after]
            write_output(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (folder / METRICS).open("a", encoding="utf-8")

    def log(self, steps: int, figures: Mapping[str, float]) -> None:
        """See `Logger`."""
        finite = {name: float(f"{v:.7g}") for name, v in figures.items() if math.isfinite(v)}
        self._file.write(json.dumps({"steps": steps, **finite}) + "\n")
        self._file.flush()

    def histograms(self, steps: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Lines hold single figures only."""

    def close(self) -> None:
        """See `Logger`."""
        self._file.close()


class TensorBoard:
    """Events for TensorBoard, in the folder `tensorboard`: figures in groups, distributions, and the
    configuration as text and as hyperparameters.

    Args:
        folder: the run folder.
        config: the resolved configuration.
        after: steps that a run to go on with has done; what it logged behind them is not shown.
    """

    def __init__(self, folder: Path, config: TrainingConfig, *, after: int = 0) -> None:
        from torch.utils.tensorboard.summary import hparams
        from torch.utils.tensorboard.writer import SummaryWriter

        make_writer: Callable[..., Any] = SummaryWriter
        self._writer = make_writer(
            str(folder / "tensorboard"), purge_step=after + 1 if after else None
        )
        self._writer.add_text("configuration", f"```yaml\n{dump(config)}```", after)
        judged = dict.fromkeys(map(grouped, JUDGED_BY), None)
        make: Callable[..., Any] = hparams
        for summary in make(_flat(to_dict(config)), judged):
            self._writer.file_writer.add_summary(summary)

    def log(self, steps: int, figures: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in figures.items():
            if math.isfinite(value):
                self._writer.add_scalar(grouped(name), value, steps)

    def histograms(self, steps: int, values: Mapping[str, NDArray[Any]]) -> None:
        """See `Logger`."""
        for name, array in values.items():
            self._writer.add_histogram(grouped(name), array, steps, bins=BINS)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, its files in the folder `wandb` of the run.

    Without a login (and without `WANDB_MODE`) nothing leaves this computer: the run is kept offline, and
    `wandb sync RUN/wandb/offline-run-*` uploads it.

    Args:
        folder: the run folder.
        config: the resolved configuration; `logging.wandb_project` and `logging.wandb_name` say where.
    """

    def __init__(self, folder: Path, config: TrainingConfig) -> None:
        import wandb

        self._wandb: Any = wandb
        mode = None
        if "WANDB_MODE" not in os.environ:
            mode = "online" if self._wandb.login(prompt=False, verify=False) else "offline"
        self._run = self._wandb.init(
            project=config.logging.wandb_project,
            name=config.logging.wandb_name or folder.resolve().name,
            group=config.logging.wandb_group or None,
            dir=str(folder),
            config=to_dict(config),
            mode=mode,
        )

    def log(self, steps: int, figures: Mapping[str, float]) -> None:
        """See `Logger`."""
        finite = {grouped(name): v for name, v in figures.items() if math.isfinite(v)}
        self._run.log(finite, step=steps)

    def histograms(self, steps: int, values: Mapping[str, NDArray[Any]]) -> None:
        """See `Logger`."""
        make = self._wandb.Histogram
        shown = {
            f"{grouped(name)}_histogram": make(np_histogram=np.histogram(array, bins=BINS))
            for name, array in values.items()
        }
        self._run.log(shown, step=steps)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str | float | bool]:
    """Return nested settings as `agent.actor.lstm`; what is no number or truth value as text."""
    flat: dict[str, str | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value if isinstance(value, bool | int | float) else str(value)
    return flat


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics; a last line that was cut short is left out."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


PANELS = (
    ("return", "evaluation_return", "return an episode"),
    ("phase_error_deg_median", "evaluation_phase_error_deg_median", "phase error, last shot (deg)"),
)
"""Panels of the learning curve: figure of training, the same on held-out episodes, words."""


def draw_learning_curve(folder: Path) -> Path | None:
    """Draw returns and phase errors against steps; nothing where matplotlib is not installed.

    What held-out episodes gave, without noise in the action, stands as stars beside the training's line.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    rows = read_metrics(folder)
    curves = [
        (_points(rows, trained), _points(rows, judged), label) for trained, judged, label in PANELS
    ]
    shown = [curve for curve in curves if curve[0] or curve[1]]
    if not shown:
        return None
    figure = Figure(figsize=(7, 2.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (trained, judged, label) in zip(axes, shown, strict=True):
        if trained:
            marker = "." if len(trained) < 40 else None
            axis.plot(
                *zip(*trained, strict=True), marker=marker, label="training, with exploration"
            )
        if judged:
            axis.plot(*zip(*judged, strict=True), "*", ms=11, color="C1", label="held-out episodes")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if "deg" in label:
            axis.set_yscale("log")
    axes[0].legend(fontsize="small")
    axes[-1].set_xlabel("environment steps")
    path = folder / CURVE
    with output_file(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def _points(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["steps"], row[name]) for row in rows if name in row]
