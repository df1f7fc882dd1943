"""What a policy file says of its training: the statistics, what they refuse, and what export makes of it."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from memrl_ctrl.agents.exportable import ExportablePolicy, untrained_policy
from memrl_ctrl.agents.task import beam_task
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.manifest import Training, decode_manifest, encode_manifest
from memrl_ctrl.policy.statistics import (
    COMPONENTS,
    ObservationStatistics,
    measure_statistics,
)
from memrl_ctrl.training.evaluation import open_for
from memrl_deploy import observed
from memrl_deploy.exporter import export_policy

N = 32
OPTIONS = {"machine": "psb", "n_slices": N, "episode_length": 10, "noise": [0.005, 0.02]}


def bunches(count: int, *, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """Observations of parabolic bunches of different widths and tilts [count, N + 1]."""
    rng = np.random.default_rng(seed)
    place = np.linspace(-1.0, 1.0, N)[None, :]
    width, tilt = rng.uniform(0.3, 0.8, (count, 1)), rng.uniform(-0.5, 0.5, (count, 1))
    shape = np.maximum(0.0, 1.0 - (place / width) ** 2) * (1.0 + tilt * place / width)
    shape += noise * shape.max(axis=1, keepdims=True) * rng.normal(size=shape.shape)
    shape /= shape.mean(axis=1, keepdims=True)
    return np.concatenate([shape, rng.uniform(-0.1, 0.1, (count, 1))], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def known() -> ObservationStatistics:
    return measure_statistics(bunches(4000))


def test_what_is_like_the_training_scores_below_one(known: ObservationStatistics) -> None:
    """Of fresh observations of the same kind at most 1 % lie beyond the edge, and none far beyond."""
    score = known.score(bunches(4000, seed=1))
    assert np.mean(score > 1.0) < 0.01
    assert np.mean(score > 1.5) == 0.0
    assert known.observations == 4000


@pytest.mark.parametrize("kind", ["noise", "pedestal", "negative", "phase", "permuted", "doubled"])
def test_each_kind_of_nonsense_is_told(known: ObservationStatistics, kind: str) -> None:
    """Noise, pedestals of both signs, degrees for radians, and other slices are beyond 1.5."""
    seen, rng = bunches(200, seed=2), np.random.default_rng(3)
    peak = seen[:, :-1].max(axis=1, keepdims=True)
    if kind == "noise":
        seen[:, :-1] += 0.3 * peak * rng.normal(size=(200, N)).astype(np.float32)
    elif kind in ("pedestal", "negative"):
        seen[:, :-1] += (0.2 if kind == "pedestal" else -0.2) * peak
    elif kind == "phase":
        seen[:, -1] = 10.0
    elif kind == "permuted":
        seen[:, :-1] = seen[:, rng.permutation(N)]
    else:
        seen[:, :-1] += np.roll(seen[:, :-1], N // 2, axis=1)
    assert np.mean(known.score(seen) > 1.5) > 0.95


def test_the_size_of_a_profile_takes_no_part(known: ObservationStatistics) -> None:
    """A profile in other units scores the same; one of zeros is beyond nothing but finite."""
    seen = bunches(50, seed=4)
    scaled = seen.copy()
    scaled[:, :-1] *= 1000.0
    np.testing.assert_allclose(known.score(scaled), known.score(seen), rtol=1e-3)
    assert np.isfinite(known.score(np.zeros((1, N + 1), dtype=np.float32))).all()


def test_statistics_survive_the_file(known: ObservationStatistics) -> None:
    """As JSON and back they score the same bits, in a few kilobytes."""
    text = msgspec.json.encode(known)
    again = msgspec.json.decode(text, type=ObservationStatistics)
    assert again == known
    assert len(text) < 8 * N * (COMPONENTS + 2) + 1000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_slices": N + 1}, "the mean has 32 entries, n_slices is 33"),
        ({"n_slices": 4}, "n_slices is 4"),
        ({"deviations": ""}, "0 components of 32 slices do not make axes"),
        ({"mean": "AAA="}, "whole number of float32"),
        ({"mean": "no base64!"}, "base64"),
        ({"distance_edge": 0.0}, "distance_edge and residual_edge must be positive"),
        ({"residual_edge": -1.0}, "distance_edge and residual_edge must be positive"),
        ({"base_range": (1.0, 1.0)}, "base_range must be finite and increasing"),
        ({"phase_range": (1.0, 0.0)}, "phase_range must be finite and increasing"),
        ({"observations": "many"}, "Expected `int`"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(
    known: ObservationStatistics, changes: dict[str, Any], said: str
) -> None:
    """A damaged file is refused with what does not fit, not met by the guard in a run."""
    content = msgspec.to_builtins(known) | changes
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(content, ObservationStatistics, strict=True)


@pytest.mark.parametrize("wrong", ["mean", "deviations"])
def test_numbers_that_are_none_are_refused(known: ObservationStatistics, wrong: str) -> None:
    """NaN and a deviation of zero would let everything pass."""
    array = np.frombuffer(b64decode(getattr(known, wrong)), dtype="<f4").copy()
    for value, said in ((np.nan, "finite"), (0.0, "positive")):
        if wrong == "mean" and value == 0.0:
            continue
        array[0] = value
        with pytest.raises(ValueError, match=said):
            msgspec.structs.replace(known, **{wrong: b64encode(array.tobytes()).decode()})


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (bunches(999), "1000 finite observations or more, not 999"),
        (np.full((2000, N + 1), np.nan, dtype=np.float32), "finite"),
        (np.ones((2000, N + 1), dtype=np.float32), "that differ"),
    ],
)
def test_statistics_of_too_little_are_not_made(observation: np.ndarray, said: str) -> None:
    """Too few, not finite, or all alike: said, not divided by."""
    with pytest.raises(ValueError, match=said):
        measure_statistics(observation)


def test_a_manifest_holds_statistics_of_its_own_slices_only(known: ObservationStatistics) -> None:
    """Statistics of another number of slices than the observation's are refused."""
    manifest = untrained_policy(beam_task(n_slices=N)).manifest
    whole = msgspec.structs.replace(manifest, statistics=known)
    assert decode_manifest(encode_manifest(whole)).statistics == known
    other = untrained_policy(beam_task(n_slices=N * 2)).manifest
    with pytest.raises(ValueError, match="statistics are of 32 slices, the observation has 64"):
        msgspec.structs.replace(other, statistics=known)


def beam_policy(**options: Any) -> ExportablePolicy:
    """A policy that says it was trained for the beam with these options."""
    policy = untrained_policy(beam_task(n_slices=N))
    training = Training(
        algorithm="lstm-td3",
        task="memrl/BeamPhase-v0",
        configuration={"environment": {"options": OPTIONS | options}},
    )
    return replace(policy, manifest=msgspec.structs.replace(policy.manifest, training=training))


def test_export_measures_what_the_training_showed(tmp_path: Path) -> None:
    """The file tells an unseen program's readings at 2 % noise from nonsense."""
    report = export_policy(beam_policy(), tmp_path / "p.onnx", plan=((2, 5),))
    assert report.without_statistics == ""
    policy = OnnxPolicy.load(tmp_path / "p.onnx")
    statistics = policy.manifest.statistics
    assert statistics is not None
    assert statistics.observations == observed.ROWS * observed.STEPS
    stepper = open_for(
        policy, "memrl/BeamPhase-v0", 512, {"program": "psb-2gev", "n_slices": N, "noise": 0.02}
    )
    seen = stepper.reset(11).observation
    stepper.close()
    assert np.mean(statistics.score(seen) > 1.5) < 0.005
    seen[:, :-1] += 0.3 * seen[:, :-1].max(axis=1, keepdims=True)
    assert np.mean(statistics.score(seen) > 1.5) > 0.95


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (untrained_policy(beam_task(n_slices=N)), "was not trained"),
        (beam_policy(backend="zmq"), "backend 'zmq', which an export leaves alone"),
        (beam_policy(fidelity="tracking"), "fidelity 'tracking', which takes too long"),
        (beam_policy(program="no-such-program", machine=None), "cannot be played.*no-such-program"),
        (beam_policy(n_slices=64), "cannot be played.*policy sees"),
    ],
    ids=["untrained", "machine", "tracking", "program", "slices"],
)
def test_export_says_why_there_are_no_statistics(
    policy: ExportablePolicy, said: str, tmp_path: Path
) -> None:
    """What cannot be played again, or is a machine, is left alone; the file is written and says so."""
    report = export_policy(policy, tmp_path / "p.onnx", plan=((2, 5),))
    assert re.search(said, report.without_statistics), report.without_statistics
    assert report.manifest.statistics is None
