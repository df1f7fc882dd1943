"""How fast PPO-LSTM trains: beside sb3-contrib, until CartPole is solved, and beside bare MiniGrid."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.values import Count
from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import MissingExtraError, UnknownNameError
from memrl_ctrl.training.benchmarks import sb3
from memrl_ctrl.training.environments import make_environment
from memrl_ctrl.training.loop import train
from memrl_ctrl.training.process import usable_cores
from memrl_ctrl.training.several import seeds_of

CARTPOLE, GRID = "ppo-lstm-cartpole-no-vel", "ppo-lstm-minigrid-memory-s7"
PARTS = ("speed", "solve", "minigrid")
QUIET = (
    "logging.tensorboard=false", "logging.checkpoint_every_s=0", "evaluation.episodes=1",
    "evaluation.every_steps=0", "evaluation.stop_at_return=null",
)  # fmt: skip
"""A run whose time is that of acting and learning."""
USUAL = ("agent.epochs=4", "agent.minibatches=4")
"""As many passes as PPO usually makes; the shipped memory tasks make more of them."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Environment steps of the single measurements."""

    ours: int = 131_072
    rival: int = 16_384
    trial: int = 4_096
    grid: int = 32_768
    bare: int = 16_384
    overrides: tuple[str, ...] = ()
    """Changes to every configuration."""


def run(
    *,
    json_path: Annotated[Path | None, Parameter(parse=False)] = None,
    parts: Annotated[str, Parameter()] = "speed,solve,minigrid",
    repeats: Count = 3,
    seeds: Annotated[str, Parameter()] = "0:5",
    budget: Annotated[Budget, Parameter(parse=False)] = Budget(),
) -> dict[str, Any]:
    """Steps a second of PPO-LSTM beside sb3-contrib and bare MiniGrid, and seconds until CartPole is solved.

    Parameters
    ----------
    json_path
        File for the JSON, or None.
    parts
        What is measured, with commas: speed (beside sb3-contrib, where it is installed), solve, minigrid.
    repeats
        Repetitions, in turns; medians are reported.
    seeds
        Seeds that CartPole is solved with: `0:5` for 0 to 4, or a list like `1,4,7`.
    budget
        Steps of the measurements.
    """
    chosen = [part.strip() for part in parts.split(",") if part.strip()] or [parts]
    for part in chosen:
        if part not in PARTS:
            raise UnknownNameError("part", part, PARTS)
    found = _Found()
    with tempfile.TemporaryDirectory() as folder:
        if "speed" in chosen:
            _speed(found, repeats, budget, Path(folder))
        if "solve" in chosen:
            _solve(found, seeds_of(seeds), budget, Path(folder))
        if "minigrid" in chosen:
            _minigrid(found, repeats, budget, Path(folder))
    return publish(
        name="ppo-lstm",
        columns=("what", "steps/s", "ratio", "seconds", "steps"),
        rows=found.rows,
        figures=found.figures,
        json_path=json_path,
        notes=found.notes,
    )


class _Found:
    """What was measured so far."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.figures: dict[str, float] = {}
        self.notes: list[str] = []

    def rates(self, rates: dict[str, float], first: str) -> None:
        """Add rows of steps a second, with what they are of the first."""
        for what, rate in rates.items():
            self.rows.append({"what": what, "steps/s": rate, "ratio": rate / rates[first]})


# --- beside sb3-contrib ---------------------------------------------------------------------------------


def _speed(found: _Found, repeats: int, budget: Budget, folder: Path) -> None:
    """Train ours and theirs in turns on CartPole without velocity."""
    config = resolve(CARTPOLE, [*QUIET, *budget.overrides])
    contenders: dict[str, Callable[[], float]] = {
        "memrl-ctrl": lambda: _trained(config, budget.ours, folder)
    }
    theirs, together = "sb3-contrib", "sb3-contrib on our environments"
    threads, rivals = 1, dict[str, sb3.Rival]()
    if sb3.is_installed():
        rivals[theirs] = sb3.Rival(config, own_environments=True)
        rivals[together] = sb3.Rival(config, own_environments=False)
        # As many threads as make it quicker here: one a core, or one.
        rates = {n: rivals[theirs].steps_per_s(budget.trial, n) for n in (1, usable_cores())}
        threads = max(rates, key=lambda n: rates[n])
    else:
        found.notes.append(sb3.MISSING)
    for name, rival in rivals.items():
        contenders[name] = partial(rival.steps_per_s, budget.rival, threads)
    try:
        measured = _medians(contenders, repeats)
    finally:
        for rival in rivals.values():
            rival.close()
    found.rates(measured, "memrl-ctrl")
    ours = measured["memrl-ctrl"]
    found.figures["cartpole_steps_per_s"] = ours
    if rivals:
        found.figures["ratio_to_sb3"] = ours / measured[theirs]
        found.figures["ratio_to_sb3_same_environments"] = ours / measured[together]
    agent = config.ppo_lstm
    found.notes.append(
        f"{config.environment.id}: {config.environment.num_envs} environments, rollouts of "
        f"{agent.rollout_steps} steps, {agent.epochs} epochs of {agent.minibatches} minibatches, LSTM of "
        f"{agent.lstm[0]} on the observation, layers {list(agent.actor)} and {list(agent.critic)} behind "
        f"it, for both; training included, medians of {repeats} in turns. sb3-contrib: {threads} threads "
        "of torch, whichever of one and one a core was quicker; its environments one by one, as its users "
        "have them, and ours, all in one call."
    )


def _trained(config: TrainingConfig, steps: int, folder: Path) -> float:
    """Train, and return the environment steps a second of acting and learning."""
    with tempfile.TemporaryDirectory(dir=folder) as run_folder:
        chosen = dataclasses.replace(config, steps=steps)
        return train(chosen, out=Path(run_folder) / "run").steps_per_s


def _medians(contenders: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Measure in turns; a first turn, in which much is compiled and loaded, does not count."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, measure in contenders.items():
            rate = measure()
            if turn:
                taken[name].append(rate)
    return {name: statistics.median(rates) for name, rates in taken.items()}


# --- until it is solved -------------------------------------------------------------------------------


def _solve(found: _Found, seeds: Sequence[int], budget: Budget, folder: Path) -> None:
    """Train until an evaluation reaches 500 of 500, once a seed."""
    seconds = []
    for seed in seeds:
        changes = ["logging.tensorboard=false", f"seed={seed}", *budget.overrides]
        config = resolve(CARTPOLE, changes)
        begin = time.perf_counter()
        result = train(config, out=folder / f"solve-{seed}")
        spent = time.perf_counter() - begin
        seconds.append(spent if result.solved else math.inf)
        solved = f"solved, seed {seed}" if result.solved else f"not solved, seed {seed}"
        found.rows.append({"what": solved, "seconds": spent, "steps": result.steps})
    median = statistics.median(seconds)
    if math.isfinite(median):
        found.figures["cartpole_seconds_to_solve_median"] = median
        found.figures["cartpole_seconds_to_solve_worst"] = max(seconds)
    found.figures["cartpole_solved_share"] = float(np.isfinite(seconds).mean())
    config = resolve(CARTPOLE, budget.overrides)
    found.notes.append(
        f"Solved: mean return of {config.evaluation.stop_at_return:g} over {config.evaluation.episodes} "
        f"held-out episodes without noise, judged every {config.evaluation.every_steps:,} steps. Seconds "
        "are wall time of the whole run: making the environments, training, evaluations, checkpoint and "
        "picture; not the start of Python."
    )


# --- MiniGrid -----------------------------------------------------------------------------------------


def _minigrid(found: _Found, repeats: int, budget: Budget, folder: Path) -> None:
    """Rates of bare MiniGrid, of our vector environment, and of training in it."""
    usual = resolve(GRID, [*QUIET, *USUAL, *budget.overrides])
    shipped = resolve(GRID, [*QUIET, *budget.overrides])
    try:
        from minigrid.wrappers import ImgObsWrapper, OneHotPartialObsWrapper  # noqa: F401
    except ModuleNotFoundError:
        missing = MissingExtraError("bench ppo-lstm", "MiniGrid", "bench")
        found.notes.append(f"No figures of MiniGrid: {missing}")
        return
    bare, vector = "MiniGrid itself", "our environments"
    few, many = "training, 4 epochs", f"training, {shipped.ppo_lstm.epochs} epochs as shipped"
    rates = _medians(
        {
            bare: lambda: _bare_rate(usual, budget.bare),
            vector: lambda: _vector_rate(usual, budget.grid),
            few: lambda: _trained(usual, budget.grid, folder),
            many: lambda: _trained(shipped, budget.grid, folder),
        },
        repeats,
    )
    found.rates(rates, bare)
    found.figures |= {
        "minigrid_bare_steps_per_s": rates[bare],
        "minigrid_vector_steps_per_s": rates[vector],
        "minigrid_steps_per_s": rates[few],
        "minigrid_share_of_bare": rates[few] / rates[bare],
        "minigrid_share_of_bare_as_shipped": rates[many] / rates[bare],
    }
    found.notes.append(
        f"{usual.environment.id}, {usual.environment.num_envs} environments, one-hot view of 3x3, actions at "
        "random where nothing is trained. MiniGrid itself: its own environment and one-hot wrapper, one by "
        "one on one core."
    )


def _bare_rate(config: TrainingConfig, steps: int) -> float:
    """Steps a second of MiniGrid's own environment with its own one-hot view."""
    import gymnasium
    from minigrid import wrappers

    image: Callable[..., Any] = wrappers.ImgObsWrapper
    one_hot: Callable[..., Any] = wrappers.OneHotPartialObsWrapper
    view = config.environment.options["view_size"]
    env = gymnasium.make(config.environment.id, agent_view_size=view)
    seen = image(one_hot(env))
    seen.reset(seed=config.seed)
    actions = np.random.default_rng(config.seed).integers(0, 3, steps).tolist()
    begin = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = seen.step(action)
        if terminated or truncated:
            seen.reset()
    seconds = time.perf_counter() - begin
    seen.close()
    return steps / seconds


def _vector_rate(config: TrainingConfig, steps: int) -> float:
    """Steps a second of our vector environment, with its restarts."""
    rows = config.environment.num_envs
    env = make_environment(config.environment.id, rows, config.environment.options)
    env.reset(seed=config.seed)
    calls = -(-steps // rows)
    actions = np.random.default_rng(config.seed).integers(0, 3, (calls, rows))
    begin = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        ended = terminated | truncated
        if ended.any():
            env.reset(options={"reset_mask": ended})
    seconds = time.perf_counter() - begin
    env.close()
    return calls * rows / seconds
