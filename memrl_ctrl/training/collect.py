"""Collecting experience: a policy with exploration noise in the vector environment.

What is collected goes into a list first and into the replay by the learner, so that collecting can
run in a thread of its own while the agent learns, with weights that nobody changes meanwhile.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.recurrent import MemoryState
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.training.stepper import Start, Step, Stepper

Array = NDArray[np.float32]

RECENT = 256
"""Finished episodes that figures are taken over."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """One step of all environments, ready for the replay; arrays [rows, ...]."""

    step: Step
    observation: Array
    """What was acted on."""
    truth: Array | None
    """Privileged features that belong to it."""
    previous: Array
    """Unit action that was applied before it."""
    memory: Array | None
    """The policy's memory when it saw it, where the replay keeps it [rows, n_state]."""
    squashed: Array
    """What the policy decided, noise included."""
    applied: Array
    """Unit action that was applied after it."""

    def store(self, replay: Replay, *, truth: bool) -> None:
        """Put the step, and the ends of episodes, into the replay."""
        step = self.step
        replay.add(
            step.valid,
            observation=self.observation,
            previous=self.previous,
            action=self.squashed,
            reward=step.reward,
            terminated=step.terminated,
            truth=self.truth if truth else None,
            state=self.memory,
        )
        replay.close(
            step.ended,
            observation=step.followed,
            previous=self.applied,
            truth=step.followed_truth if truth else None,
        )


class Acted(NamedTuple):
    """What the policy decided last, and with which memory; arrays [rows, ...]."""

    previous: Array
    """Unit action that was applied before."""
    before: MemoryState
    """Memory that it decided with."""
    after: MemoryState
    """Memory that it left, also where a new episode began then."""
    squashed: Array
    """The decision, noise included."""


class Acting:
    """The environments, and what acting in them carries from step to step.

    Args:
        stepper: the environments, already reset.
        start: what the reset brought.
        initial_memory: of the policy that acts, for all rows.
        device: torch's device that the memory is on.
    """

    def __init__(
        self, stepper: Stepper, start: Start, initial_memory: MemoryState, device: torch.device
    ) -> None:
        self._stepper, self._device = stepper, device
        rows, task = stepper.env.num_envs, stepper.task
        at_rest = task.to_unit(np.zeros((rows, task.n_action), dtype=np.float32))
        self._at_rest = np.ascontiguousarray(at_rest)
        self._observation, self._truth = start.observation, start.truth
        self._previous, self._memory = self._at_rest, initial_memory
        self.acted: Acted | None = None

    def state(self) -> dict[str, Any]:
        """Return what acting carries from step to step, as arrays."""
        return {
            "observation": self._observation,
            "truth": self._truth,
            "previous": self._previous,
            "memory": [m.cpu().numpy() for m in self._memory],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._observation, self._truth = state["observation"], state["truth"]
        self._previous = state["previous"]
        self._memory = tuple(torch.from_numpy(m).to(self._device) for m in state["memory"])

    def _go_on(self, step: Step, applied: Array, memory: MemoryState) -> None:
        """Carry on behind a step."""
        self._observation, self._truth = step.observation, step.truth
        self._previous, self._memory = applied, memory
        if step.started.any():
            # A new episode begins with what it will begin with online: nothing applied, no memory.
            self._previous = np.where(step.started[:, None], self._at_rest, applied)
            begun = torch.from_numpy(step.started).to(self._device)
            self._memory = tuple(
                m.masked_fill(begun.view(-1, *([1] * (m.ndim - 1))), 0.0) for m in memory
            )


class Collector(Acting):
    """Collects for a replay buffer.

    Args:
        stepper: the environments, already reset.
        start: what the reset brought.
        agent: whose policy acts.
    """

    def __init__(self, stepper: Stepper, start: Start, agent: LstmTd3) -> None:
        super().__init__(stepper, start, agent.initial_memory(stepper.env.num_envs), agent.device)
        self._agent = agent

    def collect(self, calls: int, *, random: bool) -> list[Collected]:
        """Step the environments.

        Args:
            calls: steps of all environments together.
            random: act uniformly at random.
        """
        return [self._once(random) for _ in range(calls)]

    def _once(self, random: bool) -> Collected:
        before = None
        if self._agent.keeps_memory:
            before = torch.cat(self._memory, dim=-1).cpu().numpy()
        squashed, unit, memory = self._agent.act(
            self._observation, self._previous, self._memory, random=random
        )
        self.acted = Acted(self._previous, self._memory, memory, squashed)
        step = self._stepper.step(unit)
        applied = self._stepper.task.to_unit(step.applied)
        result = Collected(
            step=step,
            observation=self._observation,
            truth=self._truth,
            previous=self._previous,
            memory=before,
            squashed=squashed,
            applied=applied,
        )
        self._go_on(step, applied, memory)
        return result


class Ends:
    """Figures of the episodes that ended lately.

    Args:
        rows: environments.
        decay: of the moving average of returns, per step that ends episodes.
    """

    def __init__(self, rows: int, decay: float = 0.99) -> None:
        self._decay, self._average = decay, math.nan
        self._return, self._length = np.zeros(rows), np.zeros(rows, dtype=np.int64)
        self._episodes = 0
        self._returns: deque[float] = deque(maxlen=RECENT)
        self._lengths: deque[int] = deque(maxlen=RECENT)
        self._errors: deque[float] = deque(maxlen=RECENT)

    def note(self, step: Step) -> None:
        """Take a step into account."""
        self._episodes += int(step.ended.sum())
        self._return += np.where(step.valid, step.reward, 0.0)
        self._length += step.valid
        ended = step.ended
        if not ended.any():
            return
        now = float(self._return[ended].mean())
        before = now if math.isnan(self._average) else self._average
        self._average = self._decay * before + (1.0 - self._decay) * now
        self._returns.extend(self._return[ended].tolist())
        self._lengths.extend(self._length[ended].tolist())
        self._return[ended], self._length[ended] = 0.0, 0
        if step.phase_error_rad is not None:
            error = np.abs(np.degrees(step.phase_error_rad[ended]))
            self._errors.extend(error[np.isfinite(error)].tolist())

    def state(self) -> dict[str, Any]:
        """Return everything, as arrays, for a checkpoint."""
        recent = {"returns": self._returns, "lengths": self._lengths, "errors": self._errors}
        return {
            "episodes": self._episodes,
            "average": self._average,
            "return": self._return,
            "length": self._length,
            **{name: np.array(values, dtype=np.float64) for name, values in recent.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._episodes = int(state["episodes"])
        self._average = float(state.get("average", math.nan))
        self._return[:], self._length[:] = state["return"], state["length"]
        self._returns.extend(state["returns"].tolist())
        self._lengths.extend(int(n) for n in state["lengths"])
        self._errors.extend(state["errors"].tolist())

    def figures(self) -> dict[str, Any]:
        """Return means and spreads; nothing before the first end."""
        shown: dict[str, float] = {"episodes": float(self._episodes)}
        if self._returns:
            shown["return"] = float(np.mean(self._returns))
            shown["return_ema"] = self._average
            shown["return_std"] = float(np.std(self._returns))
            low, high = np.percentile(self._returns, (5.0, 95.0))
            shown |= {"return_p05": float(low), "return_p95": float(high)}
            shown["episode_length"] = float(np.mean(self._lengths))
        if self._errors:
            shown["phase_error_deg_median"] = float(np.median(self._errors))
            shown["phase_error_deg_p95"] = float(np.percentile(self._errors, 95))
        return shown
