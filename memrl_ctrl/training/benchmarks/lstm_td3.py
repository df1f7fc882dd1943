"""Speed of LSTM-TD3's updates, beside a plain window implementation in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.bench.report import publish
from memrl_ctrl.config import LayersConfig, LstmTd3Config
from memrl_ctrl.training.benchmarks.plain import PlainLstmTd3, Sizes, Transition
from memrl_ctrl.training.process import torch_threads

CASES = (
    Sizes(observation=1001, action=1, batch=256, history=5, layers=(128, 256, 128)),
    Sizes(observation=26, action=6, batch=100, history=5, layers=(128, 128, 128)),
    Sizes(observation=26, action=6, batch=100, history=100, layers=(128, 128, 128)),
)
EPISODE = 100
EPISODES = 40
ROUNDS = 5


def run(
    json_path: Path | None = None, *, rounds: int = ROUNDS, cases: tuple[Sizes, ...] = CASES
) -> dict[str, Any]:
    """Updates and gradient steps a second of LSTM-TD3, window and sequence, beside a plain window.

    A gradient step is one decision with a loss: the batch for windows, every step of every episode for
    sequences. All take turns, so that what else the machine does meets all of them.

    Args:
        json_path: file for the JSON, or None.
        rounds: how often each takes its turn; medians are reported.
        cases: sizes to compare at.
    """
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for case in cases:
        contenders = _contenders(case)
        with torch_threads(1):
            threads = torch.get_num_threads()
            seconds = _measured({name: update for name, (update, _) in contenders.items()}, rounds)
        plain = seconds["plain window"]
        label = f"{case.observation}/{case.action}, batch {case.batch}, history {case.history}"
        for name, (_, steps) in contenders.items():
            rows.append(
                {
                    "sizes": label,
                    "what": name,
                    "ms an update": 1e3 * seconds[name],
                    "gradient steps/s": steps / seconds[name],
                    "updates, ratio": plain / seconds[name],
                    "steps, ratio": steps / seconds[name] / (case.batch / plain),
                }
            )
            key = f"{name.replace(' ', '_')}_{case.observation}_{case.history}"
            figures[f"updates_ratio_{key}"] = plain / seconds[name]
            figures[f"gradient_steps_ratio_{key}"] = steps / seconds[name] / (case.batch / plain)
            figures[f"update_ms_{key}"] = 1e3 * seconds[name]
    return publish(
        name="lstm-td3",
        columns=tuple(rows[0]),
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=[
            f"{threads} thread of torch, as in training; episodes of {EPISODE} steps; medians of "
            f"{rounds} pairs of updates (one of each pair moves the actor), taken in turns.",
            "Ratios are to the plain window implementation (memrl_ctrl.training.benchmarks.plain).",
        ],
    )


def _contenders(case: Sizes) -> dict[str, tuple[Callable[[], object], int]]:
    """What is compared: its update, and how many gradient steps one makes."""
    found: dict[str, tuple[Callable[[], object], int]] = {
        "plain window": (_plain(case).update, case.batch)
    }
    # A sequence batch of as many gradient steps as make an update take a comparable time.
    episodes = max(1, case.batch * case.history // EPISODE)
    for memory, batch, steps in (
        ("window", case.batch, case.batch),
        ("sequence", episodes, episodes * EPISODE),
    ):
        for precision in ("float32", "bfloat16"):
            agent, replay = _ours(case, memory=memory, batch=batch, precision=precision)
            name = memory if precision == "float32" else f"{memory} bfloat16"
            found[name] = (partial(agent.update, replay), steps)
    return found


def _measured(updates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds an update of each."""
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for count in range(rounds + 1):
        for name, update in updates.items():
            begin = time.perf_counter()
            update()
            update()
            if count:  # the first turn allocates
                seconds[name].append(0.5 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _experience(case: Sizes, seed: int = 0) -> Any:
    """Yield random transitions of whole episodes."""
    rng = np.random.default_rng(seed)
    for step in range(EPISODE * EPISODES):
        observation = rng.standard_normal((2, case.observation), dtype=np.float32)
        action = rng.uniform(-1.0, 1.0, case.action).astype(np.float32)
        yield step % EPISODE, observation[0], observation[1], action, float(rng.random())


def _plain(case: Sizes) -> PlainLstmTd3:
    agent = PlainLstmTd3(case)
    for step, observation, following, action, reward in _experience(case):
        agent.memory.append(
            Transition(observation, action, reward, following, done=False, first=step == 0)
        )
    return agent


def _ours(case: Sizes, *, memory: str, batch: int, precision: str) -> tuple[LstmTd3, Replay]:
    before, hidden, combined = case.layers
    sizes = LayersConfig(
        pre_lstm=(before,), lstm=(hidden,), current=(combined,), combination=(combined,)
    )
    config = LstmTd3Config(
        memory="window" if memory == "window" else "sequence",
        history_length=case.history,
        actor=sizes,
        critic=sizes,
        batch_size=batch,
        precision="float32" if precision == "float32" else "bfloat16",
    )
    task = TaskSpec(
        environment="benchmark",
        kind="task",
        n_observation=case.observation,
        action_low=(-1.0,) * case.action,
        action_high=(1.0,) * case.action,
    )
    replay = Replay(
        capacity=(EPISODE + 1) * EPISODES,
        columns=1,
        n_observation=case.observation,
        n_action=case.action,
    )
    here = np.ones(1, dtype=np.bool_)
    previous = np.zeros((1, case.action), dtype=np.float32)
    for step, observation, following, action, reward in _experience(case):
        replay.add(
            here,
            observation=observation[None],
            previous=previous,
            action=action[None],
            reward=np.array([reward]),
            terminated=~here,
        )
        previous = action[None]
        if step == EPISODE - 1:
            replay.close(here, observation=following[None], previous=previous)
            previous = np.zeros_like(previous)
    return LstmTd3(task, config, seed=0), replay
