"""What a training logs: the right numbers, in groups, for three loggers, and nothing changes by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from memrl_ctrl.agents.priorities import Priorities, PrioritySettings
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.cli import main
from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import MissingExtraError
from memrl_ctrl.training import load_policy, train
from memrl_ctrl.training.benchmarks import logging as logging_benchmark
from memrl_ctrl.training.collect import Collector
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.figures import (
    PhaseErrorByShot,
    Rates,
    evaluation_figures,
    memory_figures,
    memory_units,
    optimiser_figures,
    replay_figures,
)
from memrl_ctrl.training.logs import grouped, read_metrics
from memrl_ctrl.training.off_policy import OffPolicy
from memrl_ctrl.training.stepper import Stepper

QUICK = [
    "steps=200",
    "environment.num_envs=4",
    "agent.batch_size=8",
    "agent.start_steps=50",
    "agent.update_after=50",
    "agent.updates_per_round=2",
    "agent.actor.lstm=[8]",
    "logging.every_s=0",
    "logging.tensorboard=false",
    "evaluation.episodes=6",
]
BEAM = [
    "environment.id=memrl/BeamPhase-v0",
    "environment.options={n_slices: 32, episode_length: 3, program: psb-2gev}",
]


def quick(*overrides: str) -> TrainingConfig:
    return resolve("recall", [*QUICK, *overrides])


def step_of(
    error_deg: list[float], *, valid: list[bool] | None = None, started: list[bool] | None = None
) -> Any:
    """The part of a step that is looked at."""
    rows = len(error_deg)
    return SimpleNamespace(
        valid=np.array(valid or [True] * rows),
        started=np.array(started or [False] * rows),
        phase_error_rad=np.radians(error_deg),
    )


def test_phase_errors_are_counted_by_the_shot_of_their_episode() -> None:
    """By hand: two rows, one of which begins anew after its first shot; sizes, not signs."""
    by_shot = PhaseErrorByShot(2)
    by_shot.note(step_of([-8.0, 6.0], started=[True, False]))
    by_shot.note(step_of([4.0, -2.0]))
    by_shot.note(step_of([1.0, float("nan")]))
    shown = by_shot.figures()
    # Shot 1: 8 and 6, then 4 of the new episode; shot 2: 2 and 1; shot 3 had no reference.
    assert shown["phase_error_deg_median_shot_01"] == pytest.approx(6.0)
    assert shown["phase_error_deg_median_shot_02"] == pytest.approx(1.5)
    assert shown["phase_error_deg_p95_shot_02"] == pytest.approx(1.95)
    assert "phase_error_deg_median_shot_03" not in shown


def test_a_call_that_only_began_an_episode_is_no_shot() -> None:
    """An environment that restarts in a call of its own does not count it."""
    by_shot = PhaseErrorByShot(1)
    by_shot.note(step_of([50.0], valid=[False], started=[True]))
    by_shot.note(step_of([3.0]))
    assert by_shot.figures()["phase_error_deg_median_shot_01"] == pytest.approx(3.0)


def test_in_a_run_that_goes_on_shots_count_from_the_next_start() -> None:
    """In the middle of an episode nobody knows the number of the shot."""
    by_shot = PhaseErrorByShot(2, fresh=False)
    by_shot.note(step_of([9.0, 9.0], started=[True, False]))
    by_shot.note(step_of([4.0, 7.0]))
    assert by_shot.figures() == {
        "phase_error_deg_median_shot_01": pytest.approx(4.0),
        "phase_error_deg_p95_shot_01": pytest.approx(4.0),
    }


def test_rates_are_since_the_last_time() -> None:
    """Nothing the first time, nor where nothing happened; then differences."""
    rates = Rates()
    assert rates.figures(100, 10, 5.0) == {}
    assert rates.figures(400, 20, 7.0) == {"steps_per_s_now": 150.0, "updates_per_s_now": 5.0}
    assert rates.figures(400, 20, 8.0) == {}


def test_gradient_norms_and_learning_rates_are_those_of_the_optimisers() -> None:
    """By hand: gradients (3, 4) and (12) have norm 13; the second group is the LSTM's."""
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    groups: list[dict[str, Any]] = [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}]
    agent = SimpleNamespace(critic_optimiser=torch.optim.Adam(groups), other=1)
    assert optimiser_figures(agent) == {
        "critic_lr": 0.1,
        "critic_lstm_lr": 0.2,
        "critic_gradient_norm": pytest.approx(13.0),
    }


def test_figures_of_the_priorities_are_those_of_the_tree() -> None:
    """The mean is over what can be drawn, undone of alpha as a power mean."""
    replay = Replay(
        capacity=8, columns=1, n_observation=1, n_action=1, priorities=PrioritySettings(of="rows")
    )
    priorities = replay.priorities = Priorities(columns=1, rows=8, alpha=0.5, epsilon=0.0)
    where = np.arange(3)
    priorities.admit(np.zeros(3, dtype=np.int64), where)
    priorities.update(np.zeros(3, dtype=np.int64), where, np.array([1.0, 4.0, 9.0]))
    shown = replay_figures(SimpleNamespace(replay=replay), 0.7)
    assert shown["priority_largest"] == 9.0
    assert shown["priority_mean"] == pytest.approx(((1 + 2 + 3) / 3) ** 2)
    assert shown["priority_beta"] == 0.7
    assert shown["replay_filled"] == 0.0
    assert replay_figures(SimpleNamespace(), 0.7) == {}


def test_memory_of_the_process_is_what_it_holds() -> None:
    """256 MB more are seen as about 256 MB more, in a process that does nothing else."""
    code = (
        "import numpy as np; from memrl_ctrl.training.figures import resident_bytes\n"
        "before = resident_bytes(); held = np.ones(256 << 20, dtype=np.uint8)\n"
        "print((resident_bytes() - before) / held.nbytes)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 < float(said.stdout) < 1.1


def acted(config: TrainingConfig, calls: int) -> tuple[OffPolicy, Collector]:
    """What acts, after some calls."""
    env = make_environment(config.environment.id, config.environment.num_envs, {})
    stepper = Stepper(env, task_of(config.environment.id, env))
    learner = OffPolicy(config, stepper.task, None, "cpu")
    collector = Collector(stepper, stepper.reset(1), learner.agent)
    collector.collect(calls, random=False)
    stepper.close()
    return learner, collector


def test_the_memory_shown_is_that_of_the_last_decision() -> None:
    """Sequence: (h, c) as they were carried, also where the last step ended the episode."""
    learner, collector = acted(quick("agent.memory=sequence"), 6)
    assert collector.acted is not None
    h, c = (state.numpy() for state in collector.acted.after)
    assert all(not state.any() for state in collector._memory)  # the next episodes have begun
    units = memory_units(learner.agent, collector)
    np.testing.assert_allclose(units["memory_h"], h.ravel())
    np.testing.assert_allclose(units["memory_c"], c.ravel())


@pytest.mark.parametrize("calls", [3, 5])
def test_the_memory_of_a_window_is_what_its_lstm_read(calls: int) -> None:
    """The same h as the policy's own reading of the window, half full and full."""
    learner, collector = acted(quick("agent.memory=window", "agent.history_length=4"), calls)
    read: list[torch.Tensor] = []
    memory: Any = learner.agent.behaviour.actor.memory
    hook = memory.behind.register_forward_pre_hook(lambda _module, given: read.append(given[0]))
    assert collector.acted is not None
    with torch.no_grad():
        seen = torch.zeros(4, learner.agent.task.n_observation)
        previous = torch.from_numpy(collector.acted.previous)
        learner.agent.behaviour.step(seen, previous, *collector.acted.before)
    hook.remove()
    units = memory_units(learner.agent, collector)
    np.testing.assert_allclose(units["memory_h"], read[0].numpy().ravel(), atol=1e-6)
    assert units["memory_c"].size == units["memory_h"].size


def test_a_policy_without_memory_shows_none() -> None:
    """Neither before its first step nor after it."""
    for calls in (0, 2):
        learner, collector = acted(quick("agent.memory=window", "agent.history_length=0"), calls)
        assert memory_units(learner.agent, collector) == {}


def test_saturation_is_the_share_of_units_near_their_limits() -> None:
    """By hand: of h one of four beyond 0.95; of c one of two whose tanh is."""
    shown = memory_figures(
        {"memory_h": np.array([0.0, 0.5, -0.96, 0.9]), "memory_c": np.array([2.0, -1.0])}
    )
    assert shown["memory_h_saturated"] == 0.25
    assert shown["memory_c_saturated"] == 0.5
    assert shown["memory_c_rms"] == pytest.approx(np.sqrt(2.5))


def test_an_evaluation_is_logged_with_its_spread_and_by_shot() -> None:
    """The last shot has a name of its own; shots between the chosen ones are left out."""
    rows = [{"shot": s, "median_deg": 10.0 - s, "p95_deg": 20.0 - s} for s in (0, 1, 4, 5)]
    shown = evaluation_figures(
        {"return_mean": 1.0, "return_std": 2.0, "length_mean": 5.0, "shots": rows}
    )
    assert shown["evaluation_return_std"] == 2.0
    assert shown["evaluation_phase_error_deg_median"] == 5.0
    assert shown["evaluation_phase_error_deg_p95_shot_01"] == 19.0
    assert "evaluation_phase_error_deg_p95_shot_04" not in shown


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("agent.memory=window", "replay.prioritised=true"),
            {"priority_largest", "priority_mean", "priority_beta", "memory_h_rms", "q", "target"},
        ),
        (
            ("agent.memory=sequence", *BEAM),
            {"phase_error_deg_p95_shot_03", "phase_error_deg_median", "memory_c_saturated"},
        ),
    ],
)
def test_a_run_logs_what_one_needs_to_see(
    overrides: tuple[str, ...], expected: set[str], tmp_path: Path
) -> None:
    """Spread, losses, gradients, rates, process; with priorities and for the beam theirs too."""
    train(quick(*overrides), out=tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    shown = set().union(*rows)
    assert expected <= shown
    assert {"return", "return_std", "return_p05", "return_p95", "episode_length"} <= shown
    assert {"critic_loss", "td_error", "actor_gradient_norm", "critic_gradient_norm"} <= shown
    assert {"steps_per_s", "steps_per_s_now", "rss_mb", "replay_mb", "actor_lr"} <= shown
    assert {"evaluation_return", "evaluation_return_std"} <= set(rows[-1])


def test_what_is_logged_changes_nothing(tmp_path: Path) -> None:
    """With every figure and histogram after every round the weights are those of a silent run."""
    loud = quick("logging.histograms_every_s=1e-9", "logging.tensorboard=true")
    silent = quick("logging.every_s=1e6", "logging.histograms_every_s=0")
    weights = []
    for name, config in (("loud", loud), ("silent", silent)):
        train(config, out=tmp_path / name)
        weights.append(load_policy(tmp_path / name).module.state_dict())
    for one, other in zip(*(w.values() for w in weights), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("return", "train/return"),
        ("evaluation_return", "evaluation/return"),
        ("phase_error_deg_p95_shot_05", "beam/phase_error_deg_p95_shot_05"),
        ("critic_lstm_lr", "learning_rates/critic_lstm"),
        ("memory_h_rms", "memory/h_rms"),
        ("td_error", "losses/td_error"),
        ("lr", "learning_rates/lr"),
        ("rss_mb", "process/rss_mb"),
    ],
)
def test_names_are_grouped(name: str, shown: str) -> None:
    """A group for people, in TensorBoard and Weights & Biases."""
    assert grouped(name) == shown


def test_tensorboard_holds_figures_distributions_and_the_configuration(tmp_path: Path) -> None:
    """Scalars in groups, histograms, the configuration as text and as hyperparameters."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    every = ("logging.tensorboard=true", "logging.histograms_every_s=1e-9")
    train(quick("replay.prioritised=true", *every), out=tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/return", "losses/q", "priorities/priority_beta"} <= set(tags["scalars"])
    assert {"memory/h", "memory/c", "train/action"} <= set(tags["histograms"])
    (text,) = events.Tensors("configuration/text_summary")
    assert b"batch_size: 8" in text.tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in events.summary_metadata
    last = read_metrics(tmp_path / "run")[-1]["evaluation_return"]
    assert events.Scalars("evaluation/return")[-1].value == pytest.approx(last, rel=1e-5)


class FakeWandb(ModuleType):
    """Keeps what it is called with."""

    def __init__(self, *, login: bool) -> None:
        super().__init__("wandb")
        self.__spec__ = SimpleNamespace()  # type: ignore[assignment]
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self._login = login

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        return self._login

    def init(self, **settings: Any) -> FakeWandb:
        self.begun.append(settings)
        return self

    def log(self, figures: dict[str, Any], step: int) -> None:
        self.logged.append((step, figures))

    def finish(self) -> None:
        self.finished += 1

    @staticmethod
    def Histogram(np_histogram: tuple[NDArray[Any], NDArray[Any]]) -> int:  # noqa: N802
        return int(np_histogram[0].sum())


@pytest.mark.parametrize(("login", "mode"), [(False, "offline"), (True, "online")])
def test_weights_and_biases_gets_what_the_others_get(
    login: bool, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same figures, in groups; configuration and names; without a login it stays offline."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fake = FakeWandb(login=login)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = quick("logging.wandb=true", "logging.wandb_project=ring", "steps=100")
    train(config, out=tmp_path / "mine")
    (begun,) = fake.begun
    assert (begun["project"], begun["name"], begun["mode"]) == ("ring", "mine", mode)
    assert begun["config"]["agent"]["batch_size"] == 8
    figures = [row for row in read_metrics(tmp_path / "mine") if "return" in row]
    shown = [(step, got) for step, got in fake.logged if "train/return" in got]
    assert [row["steps"] for row in figures] == [step for step, _ in shown]
    assert shown[-1][1]["train/return"] == pytest.approx(figures[-1]["return"], rel=1e-6)
    assert any("train/action_histogram" in got for _, got in fake.logged)
    assert fake.finished == 1


def test_the_mode_of_the_environment_variable_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`WANDB_MODE` is the library's own to read."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    fake = FakeWandb(login=True)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(quick("logging.wandb=true", "logging.wandb_name=first", "steps=50"), out=tmp_path / "r")
    assert (fake.begun[0]["mode"], fake.begun[0]["name"]) == (None, "first")


def test_weights_and_biases_missing_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence with the install line, no run folder."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "memrl-ctrl\[wandb\]"'):
        train(quick("logging.wandb=true"), out=tmp_path / "run")
    words = [word for change in QUICK for word in ("--set", change)]
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", "recall", *words, "--set", "logging.wandb=true", *out]) == 4
    assert "logging.wandb needs Weights & Biases" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_real_run_of_weights_and_biases_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself takes it, and keeps it in the run folder."""
    pytest.importorskip("wandb", reason="the optional library wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    train(quick("logging.wandb=true"), out=tmp_path / "run")
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert kept.stat().st_size > 1000


def test_the_cost_of_logging_is_a_benchmark(tmp_path: Path) -> None:
    """The same training with and without; a line's cost is beside the ratio."""
    result = logging_benchmark.run(
        tmp_path / "bench.json",
        turns=1,
        turn_s=1.2,
        configurations=("recall",),
        overrides=(*QUICK[1:7],),
    )
    (row,) = result["rows"]
    plain, logged = row["without"], row["updates a CPU second, logging"]
    assert result["figures"]["updates_ratio_recall"] == pytest.approx(logged / plain)
    assert result["figures"]["line_ms_recall"] > 0.0
