"""Running a sweep, with a trainer that only writes what a training writes: trials, ends, going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from memrl_ctrl.config import dump
from memrl_ctrl.errors import MemrlError, UsageError
from memrl_ctrl.training import several
from memrl_ctrl.training.sweep import make_report, read_sweep, run_sweep
from memrl_ctrl.training.sweep import running as running_module
from memrl_ctrl.training.sweep.reading import Sweep
from memrl_ctrl.training.sweep.running import Standing
from memrl_ctrl.training.sweep.study import Trials, load_study, open_study, sqlite_url
from memrl_ctrl.training.sweep.trial import TrialRun

TRAINER = """
import json, os, signal, sys, time, yaml
from pathlib import Path
folder, settings, behaviour = Path(sys.argv[1]), yaml.safe_load(Path(sys.argv[2]).read_text()), sys.argv[3]
stop = []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
checkpoint = folder / "checkpoints" / "step.pt"
steps = int(checkpoint.read_text()) if checkpoint.exists() else 0
gamma, total, every = settings["agent"]["gamma"], settings["steps"], settings["evaluation"]["every_steps"]
if behaviour == "fail" or (behaviour == "fail-resume" and steps):
    print("memrl-ctrl: it went wrong"); sys.exit(2)
(folder / "environment").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
with (folder / "metrics.jsonl").open("a") as file:
    while steps < total and not stop:
        steps += every
        if behaviour == "slow": time.sleep(0.15)
        value = gamma * steps / total + settings["seed"]
        row = {"steps": steps, "seconds": 1.0, "return": 0.0, "evaluation_return": value}
        file.write(json.dumps(row) + "\\n")
        file.flush()
        checkpoint.write_text(str(steps))
        if behaviour == "die-once" and not (folder / "died").exists():
            (folder / "died").touch(); os.kill(os.getpid(), signal.SIGKILL)
result = {"steps": steps, "seconds": 1.0, "interrupted": bool(stop) and steps < total, "figure": {"x": gamma}}
(folder / "result.json").write_text(json.dumps(result))
sys.exit(130 if result["interrupted"] else 0)
"""


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Have trainings done by a few lines that need no torch; `behave(job)` says how."""
    said: dict[str, Any] = {"behave": lambda job: "", "started": []}

    def start(job: several.Job, environment: Mapping[str, str] | None = None) -> several.Job:
        job.folder.mkdir(parents=True, exist_ok=True)
        settings = job.folder.with_name(job.folder.name + ".yaml")
        settings.write_text(dump(job.config))
        said["started"].append(job)
        with job.lock.open("a+") as lock, job.log.open("a") as log:
            assert several._locked(lock)
            job.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    TRAINER,
                    str(job.folder),
                    str(settings),
                    said["behave"](job),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                env={**os.environ, **(environment or {})},
            )
            lock.truncate(0)
            lock.write(str(job.process.pid))
        job.state = "running"
        return job

    monkeypatch.setattr(several, "start", start)
    monkeypatch.setattr(running_module, "check_environments", lambda sweep: None)
    monkeypatch.setattr(running_module, "POLL_S", 0.02)
    yield said
    for job in said["started"]:
        if job.process.poll() is None:
            job.process.kill()
        job.process.wait()


def sweep_of(folder: Path, **more: Any) -> Sweep:
    values = {
        "base": "ppo-lstm-cartpole-no-vel",
        "steps": 100,
        "evaluations": 4,
        "trials": 4,
        "sampler": "grid",
        "pruner": "none",
        "parameters": {"agent.gamma": [0.9, 0.1, 0.5, 0.2]},
        **more,
    }
    path = folder / "gamma.yaml"
    path.write_text(yaml.safe_dump(values))
    return read_sweep(path)


def report_of(sweep: Sweep, folder: Path) -> dict[str, Any]:
    return make_report(sweep, folder).as_json()


def interrupt_after(done: Callable[[Standing], bool]) -> Callable[[Standing], None]:
    """Return a progress that sends this process one Ctrl-C."""
    sent: list[int] = []

    def progress(now: Standing) -> None:
        if done(now) and not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    return progress


# --- what is done -----------------------------------------------------------------------------------


def test_a_grid_is_done_once_and_the_best_is_found(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """Every combination is trained once, two at a time; the last evaluation is what counts; done again,
    nothing is left to do."""
    sweep, folder = sweep_of(tmp_path), tmp_path / "out"
    most: list[int] = []
    standing, end = run_sweep(
        sweep, folder, workers=2, progress=lambda now: most.append(len(now.running))
    )
    assert (end, standing.complete, standing.finished, standing.best) == ("done", 4, 4, 0.9)
    assert max(most) == 2
    figures = report_of(sweep, folder)
    gammas = [trial["settings"]["agent.gamma"] for trial in figures["trials"]]
    assert sorted(gammas) == [0.1, 0.2, 0.5, 0.9]
    assert [trial["value"] for trial in figures["trials"]] == gammas
    assert figures["trials"][0]["evaluations"] == {"25": 0.225, "50": 0.45, "75": 0.675, "100": 0.9}
    assert len(trainer["started"]) == 4
    _, end = run_sweep(sweep, folder)
    assert end == "done"
    assert len(trainer["started"]) == 4


def test_a_trial_is_the_mean_over_its_seeds(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """Seeds are trained one after another; on the way the mean over those so far is reported, at steps
    that count on."""
    sweep = sweep_of(tmp_path, seeds=[1, 3], trials=1)
    run_sweep(sweep, tmp_path / "out")
    trial = report_of(sweep, tmp_path / "out")["trials"][0]
    assert trial["of_each_seed"] == [1.9, 3.9]
    assert trial["value"] == pytest.approx(2.9)
    assert trial["evaluations"]["100"] == pytest.approx(1.9)
    assert trial["evaluations"]["125"] == pytest.approx(0.225 + 2.0)
    assert trial["evaluations"]["200"] == pytest.approx(2.9)
    assert [job.config.seed for job in trainer["started"]] == [1, 3]


@pytest.mark.parametrize(
    ("goal", "value"),
    [
        ({"of": "mean"}, 0.9 * 0.625),
        ({"of": "best", "direction": "minimize"}, 0.225),
        ({"metric": "result.figure.x"}, 0.9),
        ({"metric": "return"}, 0.0),
    ],
)
def test_any_figure_of_a_run_can_be_the_goal(
    tmp_path: Path, trainer: dict[str, Any], goal: dict[str, str], value: float
) -> None:
    """The mean or the best of its evaluations, any figure of metrics.jsonl, any number of result.json."""
    sweep = sweep_of(tmp_path, goal=goal, trials=1)
    standing, _ = run_sweep(sweep, tmp_path / "out")
    assert standing.best == pytest.approx(value)


def test_a_figure_that_no_run_has_ends_the_sweep(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """A typing mistake in the goal is said at the first evaluation, with the nearest name."""
    trainer["behave"] = lambda job: "slow"
    sweep = sweep_of(tmp_path, goal={"metric": "evaluation_retrun"}, steps=4000)
    with pytest.raises(
        MemrlError, match=r"no figure 'evaluation_retrun'.*did you mean 'evaluation_return'"
    ):
        run_sweep(sweep, tmp_path / "out")
    assert all(job.process.poll() is not None for job in trainer["started"])


def test_trials_that_promise_little_are_ended_early(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    """Below the median of those before, at the same steps, a training is interrupted, and nothing of it
    is kept that only going on would need."""
    trainer["behave"] = lambda job: "slow"
    pruner = {"name": "median", "startup_trials": 2}
    sweep, folder = sweep_of(tmp_path, pruner=pruner, trials=4), tmp_path / "out"
    sweep = sweep_of(tmp_path, pruner=pruner, parameters={"agent.gamma": [0.9, 0.8, 0.1, 0.95]})
    standing, _ = run_sweep(sweep, folder)
    assert (standing.complete, standing.pruned) == (3, 1)
    ended = report_of(sweep, folder)["trials"][2]
    assert ended["state"] == "ended early"
    assert ended["value"] == pytest.approx(0.025)
    assert not (folder / ended["folder"] / "seed0" / "checkpoints").exists()
    assert (folder / ended["folder"] / "seed0" / "metrics.jsonl").exists()


def test_workers_are_spread_over_devices(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """Each worker sees one device only, which its trainings call cuda."""
    trainer["behave"] = lambda job: "slow"
    run_sweep(sweep_of(tmp_path), tmp_path / "out", workers=2, devices=("5", "7"))
    seen = {(job.folder / "environment").read_text() for job in trainer["started"][:2]}
    assert seen == {"5", "7"}
    assert {job.config.device for job in trainer["started"]} == {"cuda"}


# --- interruptions ------------------------------------------------------------------------------------


def test_an_interrupted_sweep_goes_on(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """Ctrl-C ends all trainings with checkpoints; the same call goes on with them, keeps what is
    finished, and counts the time of both parts."""
    trainer["behave"] = lambda job: "slow"
    sweep, folder = sweep_of(tmp_path), tmp_path / "out"
    progress = interrupt_after(
        lambda now: now.complete >= 1 and any(0.2 < run.fraction < 0.8 for run in now.running)
    )
    standing, end = run_sweep(sweep, folder, progress=progress)
    assert end == "interrupted"
    assert standing.finished < 4
    assert all(job.process.poll() is not None for job in trainer["started"])
    cut_off = trainer["started"][-1]
    assert (cut_off.folder / "checkpoints" / "step.pt").exists()
    before = report_of(sweep, folder)
    assert "cut off" in {trial["state"] for trial in before["trials"]}
    done = [trial for trial in before["trials"] if trial["state"] == "complete"]
    standing, end = run_sweep(sweep, folder)
    assert (end, standing.complete, standing.resumed) == ("done", 4, 1)
    after = report_of(sweep, folder)
    assert after["trials"][: len(done)] == done
    assert len(after["trials"]) == 4
    assert trainer["started"][standing.budget - 1].folder == cut_off.folder or (
        trainer["started"].count(cut_off) == 1
    )
    rows = (cut_off.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["steps"] for row in rows] == [25, 50, 75, 100]
    assert standing.seconds > before["seconds"]


def test_what_a_killed_sweep_left_running_is_ended_first(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    """A training that outlived its sweep is interrupted before its trial goes on, so that two never write
    into one folder."""
    trainer["behave"] = lambda job: "" if trainer["started"][1:] else "slow"
    sweep, folder = sweep_of(tmp_path, trials=1, steps=1000, evaluations=40), tmp_path / "out"
    folder.mkdir()
    (folder / "sweep.yaml").touch()
    trials = Trials(sweep, open_study(sweep, sqlite_url(folder)))
    trial = trials.next()
    assert trial is not None
    orphan = TrialRun(sweep, trial, folder / "trials" / "0000")
    orphan.poll()
    process = trainer["started"][0].process
    threading.Thread(target=process.wait, daemon=True).start()
    while not (orphan.jobs[0].folder / "checkpoints" / "step.pt").exists():
        time.sleep(0.01)
    standing, _ = run_sweep(sweep, folder)
    assert process.poll() == 130
    assert (standing.complete, standing.resumed) == (1, 1)
    rows = (orphan.jobs[0].folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["steps"] for row in rows] == [*range(25, 1025, 25)]


def test_a_training_that_is_killed_goes_on(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """The kernel may kill a process for memory: its trial goes on from the checkpoint."""
    trainer["behave"] = lambda job: "die-once"
    standing, _ = run_sweep(sweep_of(tmp_path, trials=1), tmp_path / "out")
    assert (standing.complete, standing.failed) == (1, 0)
    assert len(trainer["started"]) == 2


def test_a_checkpoint_that_cannot_be_gone_on_with_is_not_the_end(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    """Where going on fails, the training begins anew, once."""
    starts: list[str] = []

    def behave(job: several.Job) -> str:
        starts.append(job.name)
        return "die-once" if len(starts) == 1 else "fail-resume"

    trainer["behave"] = behave
    standing, _ = run_sweep(sweep_of(tmp_path, trials=1), tmp_path / "out")
    assert standing.complete == 1
    assert len(starts) == 3


def test_a_failed_trial_is_named_and_tried_again_when_asked(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    """It counts, with its reason; --retry-failed repeats its settings in its place."""
    trainer["behave"] = lambda job: "fail" if job.config.ppo_lstm.gamma == 0.1 else ""
    sweep, folder = sweep_of(tmp_path), tmp_path / "out"
    standing, end = run_sweep(sweep, folder)
    assert (end, standing.complete, standing.failed, standing.finished) == ("done", 3, 1, 4)
    failed = report_of(sweep, folder)["trials"][1]
    assert failed["reason"].startswith("it went wrong (more in ")
    trainer["behave"] = lambda job: ""
    standing, _ = run_sweep(sweep, folder)
    assert standing.failed == 1
    standing, _ = run_sweep(sweep, folder, retry_failed=True)
    assert (standing.complete, standing.failed, standing.finished) == (4, 0, 4)
    again = report_of(sweep, folder)["trials"][4]
    assert again["settings"] == failed["settings"]
    assert again["retry_of"] == 1


def test_a_sweep_whose_first_trials_all_fail_ends(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """Three are enough to see that it is not the settings."""
    trainer["behave"] = lambda job: "fail"
    with pytest.raises(
        UsageError, match="the first 3 trials all failed, the last with: it went wrong"
    ):
        run_sweep(sweep_of(tmp_path), tmp_path / "out")
    assert len(trainer["started"]) == 3


def test_its_time_is_a_limit(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """A sweep whose time is over ends with checkpoints, and more time goes on."""
    trainer["behave"] = lambda job: "slow"
    folder = tmp_path / "out"
    standing, end = run_sweep(sweep_of(tmp_path, minutes=0.01), folder)
    assert end == "time"
    assert standing.finished < 4
    _, end = run_sweep(sweep_of(tmp_path, minutes=0.01), folder)
    assert end == "time"
    _, end = run_sweep(sweep_of(tmp_path, minutes=5), folder)
    assert end == "done"


def test_a_second_process_never_trains_in_one_folder(tmp_path: Path) -> None:
    """A run whose process still lives is not started again; where nothing says which one it is, nothing is
    ended."""
    job = several.Job(config=sweep_of(tmp_path).base, folder=tmp_path / "run")
    assert not several.end_orphan(job)
    with job.lock.open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        assert several._locked(lock)
        with pytest.raises(UsageError, match="is still going on, in process 4711; wait for it"):
            several.start(job)
        lock.seek(0)
        lock.truncate()
        with pytest.raises(UsageError, match=r"run\.lock does not say in which process; end it"):
            several.end_orphan(job)
    assert not several.end_orphan(job)


# --- refusals ----------------------------------------------------------------------------------------


def test_another_search_space_is_refused_with_what_changed(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    """Parameters, goal, steps: each change in words, and what to do."""
    folder = tmp_path / "out"
    run_sweep(sweep_of(tmp_path, trials=1), folder)
    space = {"agent.gamma": [0.9, 0.1], "agent.epochs": [1, 2]}
    changed = sweep_of(tmp_path, parameters=space, steps=200, goal={"of": "best"})
    with pytest.raises(UsageError) as caught:
        run_sweep(changed, folder)
    said = str(caught.value)
    assert "agent.gamma was one of 0.9, 0.1, 0.5, 0.2, now one of 0.9, 0.1" in said
    assert "agent.epochs is new" in said
    assert "steps was 100, now 200" in said
    assert 'goal.of was "last", now "best"' in said
    assert "give another --out, or the sweep folder in place of the file" in said
    assert run_sweep(read_sweep(folder), folder)[1] == "done"


def test_settings_of_a_newer_version_are_no_change(tmp_path: Path) -> None:
    """What a sweep was begun with may lack settings that there are now: they had their defaults."""
    sweep = sweep_of(tmp_path)
    study = open_study(sweep, sqlite_url(tmp_path))
    identity = study.user_attrs["identity"]
    del identity["base"]["agent"]["target_kl"], identity["base"]["overlap"]
    identity["base"]["overlap"] = sweep.base.overlap
    study.set_user_attr("identity", identity)
    open_study(sweep, sqlite_url(tmp_path))


def test_two_at_one_sweep_are_refused(tmp_path: Path, trainer: dict[str, Any]) -> None:
    """The second is told which process is at it."""
    sweep, folder = sweep_of(tmp_path), tmp_path / "out"
    said: list[str] = []

    def second(now: Standing) -> None:
        if not said:
            with pytest.raises(UsageError) as caught:
                run_sweep(sweep, folder)
            said.append(str(caught.value))

    run_sweep(sweep, folder, progress=second)
    assert f"is being worked on by process {os.getpid()}" in said[0]


def test_a_folder_of_something_else_and_a_broken_data_base_are_refused(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    """Nothing that is no sweep is touched, and what cannot be read is named."""
    sweep, folder = sweep_of(tmp_path), tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match=r"holds thesis\.tex and no sweep"):
        run_sweep(sweep, folder)
    (folder / "thesis.tex").unlink()
    (folder / "sweep.yaml").touch()
    (folder / "study.db").write_text("no data base at all, but long enough to be looked at" * 20)
    with pytest.raises(MemrlError, match=r"study\.db: cannot be opened as a sweep's data base"):
        run_sweep(sweep, folder)
    with pytest.raises(UsageError, match="workers must be at least 1, not 0"):
        run_sweep(sweep, folder, workers=0)
    with pytest.raises(MemrlError, match="holds no sweep 'gamma'"):
        load_study("gamma", sqlite_url(tmp_path))
    with pytest.raises(MemrlError) as caught:
        load_study("gamma", "nonsense://me:secret@host/x")
    assert "secret" not in str(caught.value)


# --- proposals ---------------------------------------------------------------------------------------


def test_a_sampler_does_not_begin_again_when_a_sweep_goes_on(tmp_path: Path) -> None:
    """Random trials after an interruption are others than the first ones."""
    space = {"agent.gamma": {"distribution": "uniform", "min": 0.0, "max": 1.0}}
    sweep = sweep_of(tmp_path, sampler="random", parameters=space, try_base=False)
    drawn = []
    for _ in range(3):
        trials = Trials(sweep, open_study(sweep, sqlite_url(tmp_path)))
        trials.cut_off.clear()
        trial = trials.next()
        assert trial is not None
        drawn.append(trial.params["agent.gamma"])
    assert len(set(drawn)) == 3


def test_a_combination_that_cannot_be_trained_is_a_failed_trial(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    """It is not begun; the configuration's own sentence is its reason."""
    space = {"agent.critic_sees_truth": [False, True], "agent.critic": [[16], []]}
    sweep, folder = sweep_of(tmp_path, parameters=space), tmp_path / "out"
    standing, _ = run_sweep(sweep, folder)
    assert (standing.complete, standing.failed) == (3, 1)
    reasons = [trial["reason"] for trial in report_of(sweep, folder)["trials"] if trial["reason"]]
    assert reasons[0].startswith("cannot be trained: agent: critic_sees_truth needs layers")
    assert len(trainer["started"]) == 3
