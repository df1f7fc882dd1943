"""What a training shows of itself beside returns and losses.

All of it is taken when figures are logged, from what lies there anyway: gradients of the last update,
memory of the last step, counters. What every step pays for is the phase error by shot, a few array
operations on the rows.
"""

from __future__ import annotations

import os
import resource
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memrl_ctrl.agents.exportable import SequencePolicy, WindowPolicy
from memrl_ctrl.agents.recurrent import SequenceMemory, WindowMemory
from memrl_ctrl.config import TrainingConfig
from memrl_ctrl.training.collect import RECENT, Collector
from memrl_ctrl.training.stepper import Step

Floats = NDArray[np.float64]

SHOTS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200)
"""Shots (along the cycle: control points) after which the phase error is shown."""
SATURATED = 0.95
"""A unit of an LSTM is saturated where |h|, or |tanh c|, is above this."""
MOST_ROWS = 64
"""Environments whose memory is looked at."""
MOST_PRIORITIES = 20_000
"""Priorities in a histogram: that many of the buffer, evenly spread."""

_PLACE = np.full(SHOTS[-1] + 2, -1, dtype=np.int64)
_PLACE[list(SHOTS)] = np.arange(len(SHOTS))


class PhaseErrorByShot:
    """Phase errors of late, by the number of the shot that they were measured after.

    Args:
        rows: environments.
        fresh: whether all of them are at the start of an episode; else a row counts from its next.
    """

    def __init__(self, rows: int, *, fresh: bool = True) -> None:
        self._shot = np.full(rows, 0 if fresh else -1, dtype=np.int64)
        self._errors = [deque[float](maxlen=RECENT) for _ in SHOTS]

    def note(self, step: Step) -> None:
        """Take a step into account; nothing for tasks without a phase error."""
        if step.phase_error_rad is None:
            return
        acted = step.valid & (self._shot >= 0)
        self._shot[acted] += 1
        place = np.where(acted, _PLACE[np.minimum(self._shot, _PLACE.size - 1)], -1)
        for which in np.unique(place[place >= 0]):
            error = np.abs(np.degrees(step.phase_error_rad[place == which]))
            self._errors[which].extend(error[np.isfinite(error)].tolist())
        self._shot[step.started] = 0

    def figures(self) -> dict[str, float]:
        """Return median and 95th percentile of each shot, degrees."""
        shown = {}
        for shot, errors in zip(SHOTS, self._errors, strict=True):
            if errors:
                median, p95 = np.percentile(errors, (50.0, 95.0))
                shown[f"phase_error_deg_median_shot_{shot:02d}"] = float(median)
                shown[f"phase_error_deg_p95_shot_{shot:02d}"] = float(p95)
        return shown


class Rates:
    """Steps and updates a second since they were asked for last, beside the averages of the run."""

    def __init__(self) -> None:
        self._last: tuple[float, float, float] | None = None

    def figures(self, steps: float, updates: float, seconds: float) -> dict[str, float]:
        """Return the rates; nothing the first time."""
        before, self._last = self._last, (steps, updates, seconds)
        if before is None or steps == before[0] or not seconds > before[2]:
            return {}
        return {
            "steps_per_s_now": (steps - before[0]) / (seconds - before[2]),
            "updates_per_s_now": (updates - before[1]) / (seconds - before[2]),
        }


def optimiser_figures(agent: Any) -> dict[str, float]:
    """Return learning rates, and norms of the gradients of each optimiser's last step.

    The norms are those of the step that was made: behind `agent.gradient_clip`, where it is set.

    Args:
        agent: its attributes that are optimisers are taken, `actor_optimiser` as `actor`.
    """
    shown: dict[str, float] = {}
    for attribute, optimiser in vars(agent).items():
        if not isinstance(optimiser, torch.optim.Optimizer):
            continue
        name = attribute.removesuffix("optimiser").rstrip("_")
        name = f"{name}_" if name else ""
        for group, suffix in zip(optimiser.param_groups, ("lr", "lstm_lr"), strict=False):
            shown[f"{name}{suffix}"] = float(group["lr"])
        gradients: list[Tensor] = [
            parameter.grad
            for group in optimiser.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if gradients:
            norms = torch.stack(list(torch._foreach_norm(gradients)))
            shown[f"{name}gradient_norm"] = float(torch.linalg.vector_norm(norms))
    return shown


def replay_figures(learner: Any, beta: float) -> dict[str, float]:
    """Return memory and filling of the replay buffer, and its priorities where it has them.

    `priority_mean` is the mean of priority^alpha, to the power 1/alpha: what the sum tree knows at once.

    Args:
        learner: one with a `replay`; others have none of these figures.
        beta: exponent of the importance weights now.
    """
    replay = getattr(learner, "replay", None)
    if replay is None:
        return {}
    shown = {
        "replay_mb": replay.nbytes / 1e6,
        "replay_filled": replay.steps / (replay.columns * replay.rows),
    }
    priorities = replay.priorities
    if priorities is not None and priorities.count:
        mean = priorities.tree.total / priorities.count
        shown["priority_largest"] = priorities.largest
        shown["priority_mean"] = mean ** (1.0 / priorities.alpha)
        shown["priority_beta"] = beta
    return shown


@torch.no_grad()
def memory_units(agent: Any, collector: Collector) -> dict[str, Floats]:
    """Return h and c of the acting policy's LSTM layers at its last decision, all units in one array.

    Of `MOST_ROWS` environments, those with the longest window; where the memory is empty yet they are
    left out. Nothing for a policy without memory.
    """
    if collector.acted is None:
        return {}
    previous, before, after = (
        collector.acted.previous,
        collector.acted.before,
        collector.acted.after,
    )
    policy = agent.behaviour
    if isinstance(policy, WindowPolicy) and isinstance(policy.actor.memory, WindowMemory):
        observations, actions, count = before
        length = int(count.max())
        rows = torch.nonzero(count.squeeze(-1) == length).ravel()[:MOST_ROWS]
        if not length:
            return {}
        newest = torch.from_numpy(previous).to(rows.device)[rows]
        actions = torch.cat((actions[rows, : length - 1], newest.unsqueeze(1)), dim=1)
        seen = policy.normaliser(observations[rows, :length]).transpose(0, 1)
        memory = policy.actor.memory
        _, after = memory.lstm(memory.before(memory.steps(seen, actions.transpose(0, 1))))
    elif isinstance(policy, SequencePolicy) and isinstance(policy.actor.memory, SequenceMemory):
        after = after[: 2 * len(policy.actor.memory.sizes)]
    states = [state[:MOST_ROWS] for state in after]
    states = [state[state.abs().sum(dim=-1) > 0.0].reshape(-1) for state in states]
    found = {
        name: torch.cat(states[first::2]).cpu().double().numpy()
        for first, name in enumerate(("memory_h", "memory_c"))
        if states
    }
    return {name: units for name, units in found.items() if units.size}


def memory_figures(units: dict[str, Floats]) -> dict[str, float]:
    """Return the root mean square of h and c, and which share of their units is saturated."""
    shown = {}
    for name, values in units.items():
        size = np.abs(values) if name == "memory_h" else np.abs(np.tanh(values))
        shown[f"{name}_rms"] = float(np.sqrt(np.mean(np.square(values))))
        shown[f"{name}_saturated"] = float(np.mean(size > SATURATED))
    return shown


def resident_bytes() -> int:
    """Memory that this process holds, bytes; where Linux does not say, the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def evaluation_figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return what is worth logging of an evaluation on held-out episodes.

    Args:
        evaluation: `Evaluation.as_json`.
    """
    shown = {
        "evaluation_return": evaluation["return_mean"],
        "evaluation_return_std": evaluation["return_std"],
        "evaluation_length": evaluation["length_mean"],
    }
    shots = evaluation["shots"]
    if shots:
        shown["evaluation_phase_error_deg_median"] = shots[-1]["median_deg"]
        shown["evaluation_phase_error_deg_p95"] = shots[-1]["p95_deg"]
    for row in shots:
        if row["shot"] in SHOTS:
            at = f"shot_{row['shot']:02d}"
            shown[f"evaluation_phase_error_deg_median_{at}"] = row["median_deg"]
            shown[f"evaluation_phase_error_deg_p95_{at}"] = row["p95_deg"]
    return shown


class Watch:
    """What is noted and kept of a run for its figures.

    Args:
        config: the resolved configuration.
        fresh: whether all environments are at the start of an episode.
    """

    def __init__(self, config: TrainingConfig, *, fresh: bool = True) -> None:
        self._by_shot = PhaseErrorByShot(config.environment.num_envs, fresh=fresh)
        self._rates, self._beta = Rates(), config.replay.beta
        self._every_s, self._last_s = config.logging.histograms_every_s, -1e9
        self._watches_model = config.logging.watch_model

    def note(self, step: Step) -> None:
        """Take a step into account."""
        self._by_shot.note(step)

    def figures(
        self, learner: Any, collector: Collector, steps: int, seconds: float, fraction: float
    ) -> dict[str, float]:
        """Return what is worth logging now, by name.

        Args:
            learner: agent and replay.
            collector: what acts.
            steps: environment steps so far.
            seconds: training time so far, s.
            fraction: share of the run that is done.
        """
        beta = self._beta + (1.0 - self._beta) * min(fraction, 1.0)
        return {
            **self._rates.figures(steps, learner.agent.updates, seconds),
            **optimiser_figures(learner.agent),
            **replay_figures(learner, beta),
            **memory_figures(memory_units(learner.agent, collector)),
            **self._by_shot.figures(),
            "rss_mb": resident_bytes() / 1e6,
        }

    def histograms(
        self, learner: Any, collector: Collector, seconds: float
    ) -> dict[str, NDArray[Any]]:
        """Return arrays whose distribution is worth a look; empty unless it is time."""
        if not 0.0 < self._every_s <= seconds - self._last_s:
            return {}
        self._last_s = seconds
        found: dict[str, NDArray[Any]] = dict(memory_units(learner.agent, collector))
        if collector.acted is not None:
            found["action"] = collector.acted.squashed.ravel()
        priorities = getattr(getattr(learner, "replay", None), "priorities", None)
        if priorities is not None and priorities.count:
            leaves = priorities.tree.leaves.ravel()
            leaves = leaves[:: -(-leaves.size // MOST_PRIORITIES)]
            if (leaves > 0.0).any():
                found["priority"] = leaves[leaves > 0.0] ** (1.0 / priorities.alpha)
        if self._watches_model:
            found |= model_arrays(learner.agent)
        return {name: values for name, values in found.items() if values.size}


def model_arrays(agent: Any) -> dict[str, NDArray[Any]]:
    """Return every weight that is learnt, and its gradient of the last update, by name.

    Args:
        agent: its attributes `network`, `actor` and `critics` are taken, as far as it has them.
    """
    found: dict[str, NDArray[Any]] = {}
    for part in ("network", "actor", "critics"):
        module = getattr(agent, part, None)
        if not isinstance(module, torch.nn.Module):
            continue
        for name, parameter in module.named_parameters(prefix=part):
            if not parameter.requires_grad:
                continue
            found[f"weights_{name}"] = parameter.detach().cpu().numpy().ravel()
            if parameter.grad is not None:
                found[f"gradients_{name}"] = parameter.grad.cpu().numpy().ravel()
    return found
