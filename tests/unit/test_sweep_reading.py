"""Reading sweep files: ours, those of Weights & Biases, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from memrl_ctrl.config import dump, resolve
from memrl_ctrl.errors import MemrlError
from memrl_ctrl.training.sweep import read_sweep, shipped_sweeps
from memrl_ctrl.training.sweep.reading import Sweep, as_file, check_environments
from memrl_ctrl.training.sweep.seed_names import (
    COMPUTED,
    METRICS,
    RENAMED,
    WITHOUT_COUNTERPART,
    translated,
)

BASE = "ppo-lstm-cartpole-no-vel"
RATE = {"distribution": "log-uniform", "min": 1e-4, "max": 1e-2}


def write(folder: Path, values: dict[str, Any], name: str = "lr.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def ours(folder: Path, **more: Any) -> Path:
    parameters = more.pop("parameters", {"agent.learning_rate": RATE})
    return write(folder, {"base": BASE, "steps": 1000, **more, "parameters": parameters})


def wandb(folder: Path, **more: Any) -> Path:
    values = {
        "program": "train.py",
        "method": "bayes",
        "metric": {"name": "episode/return_ema", "goal": "maximize"},
        "parameters": {
            "learning_rate": {"distribution": "log_uniform_values", "min": 2e-4, "max": 2e-3},
            "num_steps": {"values": [32, 64]},
            "hidden_size": {"values": [8, 16]},
            "hidden_layer_size": {"values": [16, 32]},
            "wandb_group": {"values": ["a group"]},
        },
    }
    return write(folder, {**values, **more}, "theirs.yaml")


# --- ours -----------------------------------------------------------------------------------------


def test_a_trial_is_the_base_with_what_was_drawn(tmp_path: Path) -> None:
    """`set`, --set and drawn values replace settings of the base; everything else stays."""
    path = ours(
        tmp_path,
        set={"agent.gamma": 0.9, "agent.epochs": 2},
        parameters={"agent.learning_rate": RATE, "agent.lstm": [[8], [16, 16]]},
    )
    sweep = read_sweep(path, overrides=["agent.epochs=5"])
    settings = sweep.settings({"agent.learning_rate": 1e-3, "agent.lstm": "[16, 16]"})
    config = sweep.configuration(settings)
    assert config.ppo_lstm.learning_rate == 1e-3
    assert config.ppo_lstm.lstm == (16, 16)
    assert config.ppo_lstm.gamma == 0.9
    assert config.ppo_lstm.epochs == 5
    assert config.steps == 1000
    assert config.evaluation.every_steps == 100
    assert config.evaluation.stop_at_return is None
    assert config.environment == resolve(BASE).environment


def test_one_parameter_can_be_several_settings(tmp_path: Path) -> None:
    """Keys with commas all have the value; a key is varied once only."""
    sweep = read_sweep(ours(tmp_path, parameters={"agent.actor, agent.critic": [[16], [32, 32]]}))
    agent = sweep.configuration({"agent.actor, agent.critic": [32, 32]}).ppo_lstm
    assert agent.actor == agent.critic == (32, 32)
    twice = {"agent.actor, agent.critic": [[16], [32]], "agent.critic": [[16], [32]]}
    with pytest.raises(MemrlError, match=r"agent\.critic is varied by two parameters"):
        read_sweep(ours(tmp_path, parameters=twice))


def test_evaluations_are_spread_over_the_training(tmp_path: Path) -> None:
    """As many as asked for, the last at the end; a setting of one's own wins."""
    assert read_sweep(ours(tmp_path, evaluations=3)).milestones == 334
    fixed = ours(tmp_path, set={"evaluation.every_steps": 70})
    assert read_sweep(fixed).milestones == 70


def test_the_base_is_tried_first_where_it_can_be_drawn(tmp_path: Path) -> None:
    """Its own values are what the first trial draws; outside the space there is no such trial."""
    base = resolve(BASE).ppo_lstm
    sweep = read_sweep(
        ours(
            tmp_path, parameters={"agent.learning_rate": RATE, "agent.lstm": [[1], list(base.lstm)]}
        )
    )
    assert sweep.tried_first() == {
        "agent.learning_rate": base.learning_rate,
        "agent.lstm": str(list(base.lstm)),
    }
    outside = ours(tmp_path, parameters={"agent.lstm": [[1], [2]]})
    assert read_sweep(outside).tried_first() is None


def test_a_sweep_folder_is_read_back_as_the_same_sweep(tmp_path: Path) -> None:
    """What stands in the folder is all that is needed to go on."""
    for path in (
        ours(
            tmp_path, seeds=[3, 5], sampler="random", pruner="hyperband", set={"agent.gamma": 0.9}
        ),
        wandb(tmp_path, base=BASE, steps=500),
    ):
        sweep = read_sweep(path, overrides=["agent.gae_lambda=0.5"])
        folder = tmp_path / path.stem
        folder.mkdir()
        (folder / "sweep.yaml").write_text(as_file(sweep))
        (folder / "base.yaml").write_text(dump(sweep.base))
        again = read_sweep(folder)
        assert again.identity() == sweep.identity()
        assert again.config.sampler == sweep.config.sampler
        assert again.config.name == sweep.config.name
        first = {one.name: one.extremes()[0] for one in sweep.parameters}
        assert again.configuration(first) == sweep.configuration(first)


def test_every_shipped_sweep_can_be_read() -> None:
    """Parameters, bases and goals of the files that come along are valid, and their environments can be
    made."""
    names = shipped_sweeps()
    assert {"ppo-lstm-cartpole-no-vel", "ppo-lstm-minigrid-memory", "psb"} <= set(names)
    for name in names:
        sweep = read_sweep(name)
        assert len(sweep.parameters) >= 4
        assert sweep.tried_first() is not None, name
        check_environments(sweep)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"trails": 3}, "no key 'trails'; did you mean 'trials'? a sweep has: "),
        ({"trials": "many"}, "trials: expected int"),
        ({"base": "psd"}, "no configuration 'psd'"),
        ({"base": ""}, "names no configuration to begin with; give --base"),
        ({"base": "psb", "steps": 0}, "psb trains for 4.6 minutes"),
        ({"sampler": "bayes"}, "sampler.name cannot be 'bayes'; it is one of: grid, random, tpe"),
        ({"pruner": {"name": "median", "reduction": 1}}, "reduction must be between 2 and 1000"),
        ({"goal": {"metric": "result.seconds", "of": "mean"}}, "is one figure of a whole run"),
        ({"goal": {"direction": "up"}}, "goal.direction cannot be 'up'"),
        ({"seeds": [1, 1]}, "are not 1 to 1000 different ones"),
        ({"seeds": 0}, "are not 1 to 1000 different ones"),
        ({"parameters": {}}, "there is nothing to vary"),
        ({"parameters": {"agent.learnig_rate": [1.0]}}, "did you mean 'agent.learning_rate'?"),
        ({"parameters": {"agnet.gamma": [0.5]}}, "no key 'agnet'; did you mean 'agent'?"),
        ({"parameters": {"agent.epochs": [1, 2.5]}}, "'agent.epochs' cannot be 2.5: "),
        ({"parameters": {"agent.gamma": [0.5, 1.5]}}, "gamma must be between 0 and 1, not 1.5"),
        (
            {"parameters": {"steps": [1, 2]}},
            "steps cannot be varied: trials are compared at the same",
        ),
        ({"parameters": {"seed": [1, 2]}}, "seed cannot be varied: give `seeds`"),
        ({"set": {"agent.learning_rate": 1.0}}, "agent.learning_rate is set and varied"),
        ({"set": {"agent.gamma.x": 1.0}}, "agent.gamma is a value, not a group of keys"),
        ({"name": "../x"}, "is no folder name"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    """One sentence with the file, the key, what it is and what is allowed."""
    with pytest.raises(MemrlError) as caught:
        read_sweep(ours(tmp_path, **values))
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("lr.yaml: ")


def test_a_value_that_only_some_combinations_allow_is_no_fault(tmp_path: Path) -> None:
    """critic_sees_truth needs layers of the critic: possible with one of the other's choices."""
    path = ours(
        tmp_path,
        set={"agent.shared": True},
        parameters={"agent.critic_sees_truth": [False, True], "agent.critic": [[], [16]]},
    )
    assert len(read_sweep(path).parameters) == 2
    alone = ours(
        tmp_path,
        set={"agent.critic": []},
        parameters={"agent.critic_sees_truth": [False, True]},
    )
    with pytest.raises(MemrlError, match=r"'agent\.critic_sees_truth' cannot be True"):
        read_sweep(alone)


def test_files_that_are_none(tmp_path: Path) -> None:
    """No such file, no YAML, an unknown name, a folder without a sweep."""
    for wanted, sentence in (
        (tmp_path / "none.yaml", "cannot be read as a sweep"),
        ("cartpole-no-vel", "no sweep 'cartpole-no-vel'; there is: ppo-lstm-cartpole-no-vel"),
        (tmp_path, "is no sweep folder: it holds no sweep.yaml"),
    ):
        with pytest.raises(MemrlError, match=sentence):
            read_sweep(wanted)
    broken = tmp_path / "broken.yaml"
    broken.write_text("parameters: [")
    with pytest.raises(MemrlError, match=r"broken.yaml, line 1: is no YAML"):
        read_sweep(broken)


def test_an_environment_that_cannot_be_made_is_found_before_any_trial(tmp_path: Path) -> None:
    """A choice of an option that the task does not take is refused with the task's own sentence."""
    path = ours(tmp_path, parameters={"environment.options.lenght": [1, 2], "agent.epochs": [1, 2]})
    with pytest.raises(MemrlError, match="has no option 'lenght'"):
        check_environments(read_sweep(path))


# --- Weights & Biases ---------------------------------------------------------------------------------


def test_a_file_of_weights_and_biases_is_read(tmp_path: Path) -> None:
    """Names of parameters and figures become ours, what starts a program is left out with a note."""
    sweep = read_sweep(wandb(tmp_path), base=BASE, steps=1000)
    assert sweep.config.goal.metric == "return_ema"
    assert sweep.config.sampler.name == "tpe"
    assert sweep.config.pruner.name == "none"
    assert any(note.startswith("program is left out") for note in sweep.notes)
    assert sweep.base.logging.wandb_group == "a group"
    config = sweep.configuration(
        {"learning_rate": 1e-3, "num_steps": 64, "hidden_size": 16, "hidden_layer_size": 32}
    )
    agent = config.ppo_lstm
    assert (agent.learning_rate, agent.rollout_steps) == (1e-3, 64)
    assert (agent.lstm, agent.actor, agent.critic) == ((16,), (32, 32), (32, 32))


def parameter(folder: Path, **value: Any) -> dict[str, Any]:
    path = wandb(
        folder, parameters={"agent.entropy_weight": value, "num_steps": {"values": [1, 2]}}
    )
    found = read_sweep(path, base=BASE, steps=100).parameters[0].as_plain()
    assert isinstance(found, dict)
    return found


def test_distributions_of_weights_and_biases(tmp_path: Path) -> None:
    """Each becomes one of ours; without a name the values say which it is."""
    ends = {"min": 0.01, "max": 0.1}
    assert parameter(tmp_path, **ends) == {"distribution": "uniform", **ends}
    assert parameter(tmp_path, values=[0.1, 0.2])["distribution"] == "choice"
    found = parameter(tmp_path, distribution="log_uniform_values", **ends)
    assert found == {"distribution": "log-uniform", **ends}
    found = parameter(tmp_path, distribution="log_uniform", min=-2.0, max=0.0)
    assert found["min"] == pytest.approx(0.1353, abs=1e-4)
    assert found["max"] == 1.0
    found = parameter(tmp_path, distribution="q_uniform", q=0.02, **ends)
    assert found == {"distribution": "quantised", **ends, "step": 0.02}
    found = parameter(tmp_path, distribution="q_log_uniform_values", q=0.005, **ends)
    assert found == {"distribution": "quantised", **ends, "step": 0.005, "log": True}
    integers = wandb(
        tmp_path,
        parameters={"update_epochs": {"min": 1, "max": 8}, "num_steps": {"values": [1, 2]}},
    )
    assert read_sweep(integers, base=BASE, steps=100).parameters[0].whole


def test_a_sweep_is_named_after_its_file(tmp_path: Path) -> None:
    """Also where the file's name is no name of a folder."""
    path = wandb(tmp_path).rename(tmp_path / "sweep_config cartpole (2).yaml")
    assert read_sweep(path).config.name == "sweep_config-cartpole-2"
    assert read_sweep(wandb(tmp_path, name="my  sweep")).config.name == "my-sweep"


def test_keys_of_weights_and_biases(tmp_path: Path) -> None:
    """Grids, hyperband, caps, nested parameters, seeds, constants."""
    path = wandb(
        tmp_path,
        method="grid",
        run_cap=7,
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 4},
        parameters={
            "agent": {"parameters": {"epochs": {"values": [1, 2]}}},
            "gamma": {"value": 0.5},
            "seed": {"values": [4, 5]},
            "total_steps": {"value": 3000},
        },
    )
    sweep = read_sweep(path, base=BASE)
    assert [one.name for one in sweep.parameters] == ["agent.epochs"]
    assert sweep.config.seed_numbers == (4, 5)
    assert (sweep.config.trials, sweep.base.steps) == (7, 3000)
    assert sweep.base.ppo_lstm.gamma == 0.5
    assert sweep.config.pruner.name == "hyperband"
    assert (sweep.config.pruner.first_evaluation, sweep.config.pruner.reduction) == (2, 4)
    longest = {"type": "hyperband", "s": 2, "eta": 3, "max_iter": 27}
    sweep = read_sweep(wandb(tmp_path, early_terminate=longest), base=BASE, steps=100)
    assert sweep.config.pruner.first_evaluation == 3


def test_figures_as_they_are_logged_are_found(tmp_path: Path) -> None:
    """A goal can have the name that it has in Weights & Biases or TensorBoard."""
    for theirs, name in {
        "evaluation/return": "evaluation_return",
        "train/return": "return",
        "train/episode_length": "episode_length",
        "losses/value_loss": "value_loss",
        "eval/mean_reward": "evaluation_return",
        "evaluation_return": "evaluation_return",
    }.items():
        path = wandb(tmp_path, metric={"name": theirs, "goal": "maximize"})
        assert read_sweep(path, base=BASE, steps=100).config.goal.metric == name


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"parameters": {"agent.epochs": {"values": [1, 2]}}},
            "names no configuration to begin with; give --base NAME",
        ),
        ({"method": "bays"}, "no method 'bays'; there is: bayes, grid, random"),
        ({"metod": "bayes"}, "no key 'metod'"),
        ({"metric": None}, "it has no metric"),
        ({"metric": {"name": "a", "goal": "up"}}, "metric.goal 'up' is neither"),
        ({"early_terminate": {"type": "median"}}, "early_terminate 'median' is unknown"),
        ({"early_terminate": {"type": "hyperband", "eta": 1}}, "eta 1 is no integer of 2 or more"),
        (
            {"parameters": {"lr": {"min": 0.0}}},
            "parameter 'lr' needs values, value, or min and max",
        ),
        ({"parameters": {"lr": 3}}, "parameter 'lr' is 3, no group of keys"),
        (
            {"parameters": {"gamma": {"distribution": "normal", "mu": 0}}},
            "'normal' is not supported",
        ),
        (
            {"base": BASE, "parameters": {"learning_rat": {"values": [1, 2]}}},
            "no parameter 'learning_rat'",
        ),
        ({"base": BASE, "parameters": {"gpu_id": {"values": [0, 1]}}}, "give --devices"),
        (
            {"base": BASE, "parameters": {"minibatch_size": {"values": [1, 10**9]}}},
            "do not fit a round of num_envs * num_steps",
        ),
        (
            {"base": BASE, "parameters": {"total_steps": {"values": [1, 2]}}},
            "total_steps cannot be varied",
        ),
    ],
)
def test_what_cannot_be_had_of_weights_and_biases(
    tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    """One sentence says what, and what to do instead."""
    with pytest.raises(MemrlError) as caught:
        read_sweep(wandb(tmp_path, **values))
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("theirs.yaml: ")


# --- the seed work's names --------------------------------------------------------------------------------


def test_minibatches_of_the_seed_work_are_counted_in_sequences() -> None:
    """256 sequences of 64 steps are a sixteenth of 128 environments' 2,048 steps; automatic is one part."""
    base = resolve(BASE)
    values = {"num_envs": 128, "num_steps": 2048, "seq_len": 64, "minibatch_size": 256}
    assert translated(values, base)["agent.minibatches"] == 16
    assert translated({**values, "auto_mini_batch": True}, base)["agent.minibatches"] == 1
    assert translated({"eval_freq": 3, **values}, base)["evaluation.every_steps"] == 3 * 128 * 2048


def test_what_the_seed_work_learns_from_is_what_its_buffer_holds() -> None:
    """Where a buffer is given, the smaller of it and the rollout; else the rollout."""
    base = resolve(BASE)
    rollout = "agent.rollout_steps"
    assert translated({"num_steps": 1024, "buffer_size": 512}, base)[rollout] == 512
    assert translated({"num_steps": 256, "buffer_size": 512}, base)[rollout] == 256
    assert translated({"num_steps": 1024}, base)[rollout] == 1024
    assert translated({"env_id": "CartPoleNoVel-v0"}, base)["environment.id"].startswith("memrl/")


def test_a_file_with_the_seed_works_names_begins_with_its_defaults(tmp_path: Path) -> None:
    """Without a base, trials begin with the configuration that has them, and a note says so."""
    sweep = read_sweep(wandb(tmp_path))
    assert sweep.base.name == resolve("ppo-lstm-seed").name
    assert "trials begin with ppo-lstm-seed; --base names another configuration" in sweep.notes
    assert read_sweep(wandb(tmp_path), base=BASE).base.name == BASE


def test_every_key_that_names_become_exists() -> None:
    """Each of our keys in the table is one of the configuration, and no name stands in two tables."""
    from memrl_ctrl.training.sweep.reading import _changed

    base = resolve("ppo-lstm-minigrid-memory-s7")
    values: dict[str, Any] = {
        "env_id": "MiniGrid-MemoryS7-v0", "view_size": 3, "one_hot": True, "use_pixels": False,
        "betas": [0.9, 0.99], "use_wandb": False, "wandb_project": "x", "wandb_group": "x",
        "eval_env_id": "CartPole-v1", "watch_model": True, "torch_deterministic": True,
    }  # fmt: skip
    for name in RENAMED:
        _changed(base, translated({name: values.get(name, 1)}, base))
    for name in COMPUTED:
        changed = _changed(base, translated({name: values.get(name, 1)}, base))
        assert changed != base or name in {"minibatch_size", "env_id"}, name
    tables = (*RENAMED, *COMPUTED, *WITHOUT_COUNTERPART)
    assert len(tables) == len(set(tables))


def test_the_seed_works_parameters_are_all_known() -> None:
    """Every parameter that the seed work's PPO-LSTM has is translated, or it is said why not."""
    known = {*RENAMED, *COMPUTED, *WITHOUT_COUNTERPART}
    text = """
        project_name env_id view_size one_hot use_pixels torch_deterministic seed use_wandb
        wandb_project wandb_group watch_model deployment auto_mini_batch total_steps num_envs
        num_steps seq_len update_epochs rand_move_eps hidden_size hidden_layer_size learning_rate
        betas max_grad_norm clip_range max_kl gamma gae_lambda vf_coef entropy_coef buffer_size
        minibatch_size debug_probes record_video save_freq save_dir eval_freq num_eval_envs
        eval_steps eval_env_id n_epochs batch_size num_iterations num_minibatches gpu_id ema_decay
    """
    theirs = text.split()
    assert set(theirs) <= known
    assert METRICS["episode/return_ema"] == "return_ema"


def test_a_sweep_knows_what_must_not_change(tmp_path: Path) -> None:
    """Budgets, logging and devices may change while a sweep goes on; spaces, goals and bases may not."""

    def identity(**more: Any) -> Any:
        return read_sweep(ours(tmp_path, **more)).identity()

    same: Sweep = read_sweep(ours(tmp_path))
    assert identity(trials=99, minutes=3, sampler="random", pruner="none") == same.identity()
    assert identity(set={"logging.tensorboard": False, "device": "cuda"}) == same.identity()
    for more in (
        {"steps": 1001},
        {"seeds": 2},
        {"goal": {"metric": "return"}},
        {"set": {"agent.gamma": 0.5}},
        {"parameters": {"agent.learning_rate": {**RATE, "max": 0.1}}},
    ):
        assert identity(**more) != same.identity()
