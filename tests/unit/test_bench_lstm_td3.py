"""The benchmark of LSTM-TD3 compares what it says it compares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from memrl_ctrl.training.benchmarks import lstm_td3
from memrl_ctrl.training.benchmarks.plain import PlainLstmTd3, Sizes, Transition

SMALL = Sizes(observation=7, action=2, batch=6, history=4, layers=(8, 9, 10))


def test_it_reports_all_contenders(tmp_path: Path) -> None:
    """Both memories in both precisions stand beside the plain window, with ratios that agree."""
    file = tmp_path / "bench.json"
    result = lstm_td3.run(file, rounds=2, cases=(SMALL,))
    assert json.loads(file.read_text())["figures"] == result["figures"]
    assert [row["what"] for row in result["rows"]] == [
        "plain window", "window", "window bfloat16", "sequence", "sequence bfloat16",
    ]  # fmt: skip
    figures = result["figures"]
    assert figures["updates_ratio_plain_window_7_4"] == 1.0
    plain, ours = figures["update_ms_plain_window_7_4"], figures["update_ms_window_7_4"]
    np.testing.assert_allclose(figures["updates_ratio_window_7_4"], plain / ours)


def test_the_plain_implementation_learns() -> None:
    """It is a working algorithm: its critics learn the value of a constant reward that ends the task."""
    agent = PlainLstmTd3(SMALL, seed=1)
    rng = np.random.default_rng(0)
    for step in range(200):
        seen = rng.standard_normal((2, 7)).astype("f4")
        action = rng.uniform(-1, 1, 2).astype("f4")
        agent.memory.append(Transition(seen[0], action, 3.0, seen[1], True, step % 10 == 0))
    for _ in range(400):
        agent.update()
    batch = agent.sample()
    current = torch.cat([batch["observation"], batch["action"]], dim=-1)
    value = agent.critics[0](batch["history"], batch["acted"], batch["count"], current)
    assert abs(float(value.detach().mean()) - 3.0) < 0.3
