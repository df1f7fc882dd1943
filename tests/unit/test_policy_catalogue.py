"""Shipped policies: found by name, and able to do what they are shipped for."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.policy.catalogue import locate, shipped

RETURN = {"minigrid-memory-s13": 0.95, "maze-random": 0.8}
"""Mean return that a policy must reach over `EPISODES` held-out episodes."""
EPISODES = 40


def test_names_are_found_and_paths_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is a shipped policy, unless something lies at that path; everything else is a path."""
    monkeypatch.chdir(tmp_path)
    name = Path("maze-random")
    assert locate(name).name == "maze-random.onnx"
    assert locate(Path("nothing")) == Path("nothing")
    name.mkdir()
    assert locate(name) == name


def test_every_policy_is_held_to_a_return() -> None:
    """No policy is shipped whose worth is not tested."""
    assert shipped() == sorted(RETURN)


@pytest.mark.parametrize("name", RETURN)
def test_they_do_what_they_are_for(name: str) -> None:
    """Each solves its task, with what its own file says of the task."""
    pytest.importorskip("minigrid")
    pytest.importorskip("torch")
    from memrl_ctrl.training import evaluate

    result = evaluate(name, episodes=EPISODES, seed=20_000)
    assert result.returns.mean() > RETURN[name]
