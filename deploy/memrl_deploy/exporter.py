"""From a trained policy to one ONNX file, written only if both compute the same.

Needs torch and onnx (extra `train`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from memrl_ctrl.errors import MismatchError
from memrl_ctrl.policy.manifest import PolicyManifest
from memrl_ctrl.policy.runner import OnnxPolicy
from memrl_ctrl.policy.write import OPSET, finish, write_file
from memrl_deploy.observed import statistics_of

if TYPE_CHECKING:
    from memrl_ctrl.agents.exportable import ExportablePolicy

PARITY_LIMIT = 1e-5
"""Largest difference between torch and onnxruntime with which a file is written: of actions, in their units;
and of the memory behind each call from the same memory, beyond 1 (an LSTM's c has no bound) as a share of
its size, which is what float32 can hold."""
ROUNDING, MOST_ROUNDING = 10.0, 1e-3
"""A policy may differ by more where rounding alone makes as much of it: by so many times what float32 and
float64 differ by in torch itself, and by no more than the second, in the units of its actions. Both are
the largest of many, with long tails: in two of twelve trials with right files it was 3.1 times as much."""
RARELY = 1e-3
"""In less than this share of the steps of whole episodes only the first of these limits holds: where a memory
contradicts itself the last digit decides, and each side goes on from its own. One right policy differed by
1.7e-3 in one step of 13,710, as torch's float32 from its float64, and by 9e-6 from the same memory."""
PLAN: tuple[tuple[int, int], ...] = ((1, 600), (30, 180), (257, 30))
"""Rows and calls of the parity runs; 13,710 steps in all."""
RESET_PROBABILITY = 1.0 / 30.0
"""Chance of a row to begin a new episode before a call."""

FloatBatch = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How torch and onnxruntime differ, and what was allowed: see `PARITY_LIMIT`, `ROUNDING` and `RARELY`."""

    call: float
    """At most, of action and memory of one call from the same memory."""
    call_allowed: float
    episode: float
    """Of actions over whole episodes, each side going on from its own memory: in all but `RARELY` of them."""
    episode_allowed: float
    largest: float
    """Of all that was seen."""
    largest_allowed: float

    @property
    def proven(self) -> bool:
        """Whether the file computes what torch computes."""
        return (
            self.call <= self.call_allowed
            and self.episode <= self.episode_allowed
            and self.largest <= self.largest_allowed
        )

    def __str__(self) -> str:
        return (
            f"{self.call:.1e} at most from the same memory (allowed {self.call_allowed:.0e}); over whole "
            f"episodes {self.episode:.1e} in all but 1 of {1.0 / RARELY:.0f} steps (allowed "
            f"{self.episode_allowed:.0e}), {self.largest:.1e} at most (allowed {self.largest_allowed:.0e})"
        )


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written."""

    path: Path
    digest: str
    """SHA-256 of the file."""
    manifest: PolicyManifest
    size_bytes: int
    parity: Parity
    """How torch and onnxruntime differ."""
    without_statistics: str = ""
    """Why the file does not say what the training saw; empty where it does."""

    @property
    def parity_max_abs_diff(self) -> float:
        """Largest difference between torch and onnxruntime that was seen."""
        return self.manifest.parity_max_abs_diff or 0.0


def export_policy(
    policy: ExportablePolicy,
    out: str | Path,
    *,
    seed: int = 0,
    plan: Sequence[tuple[int, int]] = PLAN,
) -> ExportReport:
    """Write a policy as one ONNX file, after proving that it computes what torch computes.

    Whole episodes with resets run through both, for several batch sizes; what was applied differs from
    what was asked for, as behind a guard. Actions are compared with each side going on from its own
    memory, and from the same memory; memories from call to call, because rounding adds up in one that lasts.

    Args:
        policy: module and manifest; the module is copied, not changed.
        out: the file; replaced whole, or left as it is.
        seed: of the observations of the parity runs.
        plan: rows and calls of each parity run.

    Raises:
        MismatchError: outputs differ by more than 1e-5 and by more than rounding explains (see `Parity`), or
            are not finite; nothing is written.
        FileError: the file cannot be written.
    """
    module = copy.deepcopy(policy.module).to("cpu").eval()
    with _one_thread():
        return _export(module, policy.manifest, Path(out), seed, plan)


MOST_OTHER_CHOICES = 0.02
"""Largest share of the rows of a call in which torch and onnxruntime may choose otherwise."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: small batches are slower with more, on a busy machine much slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _export(
    module: torch.nn.Module,
    given: PolicyManifest,
    out: Path,
    seed: int,
    plan: Sequence[tuple[int, int]],
) -> ExportReport:
    model = onnx.load_from_string(_to_onnx(module, given))
    versions = {"torch": str(torch.__version__)}
    draft = msgspec.structs.replace(given, versions=versions)
    data, draft = finish(model, draft)
    runner = OnnxPolicy.load(data)
    generator = np.random.default_rng(seed)
    parity = _judged([_parity(module, runner, rows, calls, generator) for rows, calls in plan])
    if not parity.proven:
        raise MismatchError(f"{out}: not written: torch and onnxruntime differ by {parity}")
    statistics, missing = statistics_of(runner)
    data, manifest = finish(
        model,
        msgspec.structs.replace(
            draft,
            statistics=statistics,
            parity_max_abs_diff=parity.largest,
            parity_steps=sum(rows * calls for rows, calls in plan),
        ),
    )
    digest = OnnxPolicy.load(data).digest
    path = write_file(out, data)
    return ExportReport(
        path=path,
        digest=digest,
        manifest=manifest,
        size_bytes=len(data),
        parity=parity,
        without_statistics=missing,
    )


def _to_onnx(module: torch.nn.Module, manifest: PolicyManifest) -> bytes:
    inputs = [manifest.observation.name, manifest.action.previous_name]
    inputs += [manifest.action.allowed_name] if manifest.action.allowed_name else []
    inputs += [memory.name_in for memory in manifest.memory]
    outputs = [manifest.action.name, *(memory.name_out for memory in manifest.memory)]
    # Three rows, so that nothing in the graph takes the batch for a dimension of length one.
    rows = 3
    example = (
        torch.zeros(rows, *manifest.observation.shape),
        torch.zeros(rows, *manifest.action.shape),
        *_allowed(manifest, np.ones((rows, sum(manifest.action.choices)), dtype=np.float32)),
        *_initial_memory(manifest, rows),
    )
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        path = Path(folder) / "policy.onnx"
        # The tracing exporter is deprecated, and warns of LSTMs traced with several rows; the parity
        # runs with other batch sizes answer that. It needs no further package and makes one file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example,
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
        return path.read_bytes()


def _allowed(manifest: PolicyManifest, allowed: FloatBatch) -> list[torch.Tensor]:
    """Return the input that says which choices may be made; nothing where there is none."""
    return [torch.from_numpy(allowed)] if manifest.action.allowed_name else []


def _initial_memory(manifest: PolicyManifest, rows: int) -> list[torch.Tensor]:
    return [
        torch.full((rows, *memory.shape), memory.reset, dtype=getattr(torch, memory.dtype))
        for memory in manifest.memory
    ]


def _parity(
    module: torch.nn.Module,
    runner: OnnxPolicy,
    rows: int,
    calls: int,
    generator: np.random.Generator,
) -> tuple[_Differences, _Differences]:
    """Return how `calls` calls of `rows` rows differ, of the file from torch and of float32 from float64.

    A call is compared with that of the other from the same memory; the action also with that of the other
    going on from its own memory, where the rounding of a whole episode adds up.
    """
    manifest = runner.manifest
    here = _Going(module, manifest, rows, torch.float32)
    exact = _Going(copy.deepcopy(module).double(), manifest, rows, torch.float64)
    applied = np.zeros((rows, *manifest.action.shape), dtype=np.float32)
    episodes = _Episodes(manifest, rows, generator)
    differ, rounding = _Differences(), _Differences()
    for call in range(calls):
        begin = generator.random(rows) < (1.0 if call == 0 else RESET_PROBABILITY)
        for each in (runner, here, exact):
            each.reset(rows, begin)
        applied[begin] = 0.0
        episodes.apply(applied)
        episodes.begin(begin)
        observation = episodes.observed()
        allowed = _some_choices(manifest, rows, generator)
        runner.allow(allowed)
        same = [array.copy() for array in runner.memory.values()]
        action = runner.act(observation, applied)
        seen = (observation, applied, *([allowed] if manifest.action.allowed_name else []))
        expected, true = here.act(*seen), exact.act(*seen)
        (once, *after), (true_once, *true_after) = here.once(*seen, *same), exact.once(*seen, *same)
        differ.steps.append(_action_differences(manifest, action, expected))
        differ.calls.append(float(_action_differences(manifest, action, once).max()))
        differ.calls.extend(map(_share, runner.memory.values(), after))
        rounding.steps.append(_action_differences(manifest, expected, true))
        rounding.calls.append(float(_action_differences(manifest, once, true_once).max()))
        rounding.calls.extend(map(_share, after, true_after))
        if manifest.action.choices:
            applied = (1 + action).astype(np.float32)
            continue
        # What is applied is less than what was asked for where a limit cuts it.
        share = np.clip(generator.normal(1.0, 0.3, (rows, 1)), 0.0, 1.0).astype(np.float32)
        applied = np.clip(action * share, manifest.action.low, manifest.action.high)
    return differ, rounding


@dataclass
class _Differences:
    """Of one run."""

    calls: list[float] = field(default_factory=list)
    """Largest of each call from the same memory."""
    steps: list[NDArray[np.float64]] = field(default_factory=list)
    """Of the actions of each call, going on from own memories [rows]."""


def _judged(found: Sequence[tuple[_Differences, _Differences]]) -> Parity:
    """Put the runs together: what differs, and what rounding alone explains."""

    def together(which: int) -> tuple[float, float, float]:
        steps = np.concatenate([step for run in found for step in run[which].steps])
        call = max(each for run in found for each in run[which].calls)
        usual = float(np.quantile(steps, 1.0 - RARELY, method="higher"))
        return call, usual, max(call, float(steps.max()))

    def allowed(rounding: float, most: float = MOST_ROUNDING) -> float:
        return max(PARITY_LIMIT, min(ROUNDING * rounding, most))

    (call, episode, largest), (of_call, of_episode, of_all) = together(0), together(1)
    return Parity(
        call=call,
        call_allowed=allowed(of_call),
        episode=episode,
        episode_allowed=allowed(of_episode),
        largest=largest,
        largest_allowed=allowed(of_all, np.inf),
    )


class _Going:
    """A module that goes on from its own memory, in a precision of its own.

    Args:
        module: of that precision.
        manifest: what it carries.
        rows: number of rows.
        dtype: the precision.
    """

    def __init__(
        self, module: torch.nn.Module, manifest: PolicyManifest, rows: int, dtype: torch.dtype
    ) -> None:
        self._module, self._dtype = module, dtype
        self._initial = [memory.numpy() for memory in _initial_memory(manifest, rows)]
        self._memory = [memory.copy() for memory in self._initial]

    def reset(self, _rows: int, begin: NDArray[np.bool_]) -> None:
        """Begin an episode in some rows."""
        for memory, initial in zip(self._memory, self._initial, strict=True):
            memory[begin] = initial[begin]

    def act(self, *seen: NDArray[Any]) -> NDArray[Any]:
        """Return the action for what is seen, and remember."""
        action, *self._memory = self.once(*seen, *self._memory)
        return action

    def once(self, *given: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the action and the memory behind it, for what is seen and a memory."""
        with torch.no_grad():
            out = self._module(*(torch.from_numpy(each).to(self._dtype) for each in given))
        return [each.numpy().copy() for each in out]


def _action_differences(
    manifest: PolicyManifest, action: NDArray[Any], expected: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the largest difference of actions [rows]; of choices 0, or infinity where many differ."""
    if manifest.action.choices:
        # A choice may turn on the last digit where two are equally good; it must be rare.
        other = float(np.mean(action != expected))
        return np.full(len(action), np.inf if other > MOST_OTHER_CHOICES else 0.0)
    apart = np.abs(action.astype(np.float64) - expected).max(axis=1)
    return np.where(np.isfinite(apart), apart, np.inf)


def _share(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the largest difference, of what is beyond 1 as a share of its size; infinity if not finite."""
    share = float(np.max(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs)), initial=0.0))
    return share if np.isfinite(share) else np.inf


def _some_choices(
    manifest: PolicyManifest, rows: int, generator: np.random.Generator
) -> FloatBatch:
    """Return which choices may be made, at random, at least one of each [rows, sum of choices]."""
    parts = [
        np.maximum(generator.random((rows, n)) < 0.7, np.arange(n) == generator.integers(n))
        for n in manifest.action.choices
    ]
    return np.concatenate(parts or [np.zeros((rows, 0))], axis=1).astype(np.float32)


class _Episodes:
    """Observations that a policy may meet, row by row: noisy bunches that lean with the phase error.

    What is applied turns the phase, so that what a policy remembers has to do with what it sees next; how
    much a bunch leans, and how long it is, differ from row to row. Other tasks have normal noise.

    Args:
        manifest: says what is observed.
        rows: number of rows.
        generator: draws everything.
    """

    def __init__(self, manifest: PolicyManifest, rows: int, generator: np.random.Generator) -> None:
        self._spec, self._generator = manifest.observation, generator
        self._width, self._lean, self._noise = np.ones((3, rows, 1))
        self._synchronous, self._error = np.zeros((2, rows, 1))

    def begin(self, rows: NDArray[np.bool_]) -> None:
        """Draw the bunch and its phase error anew in some rows."""
        draw, count = self._generator.uniform, (int(rows.sum()), 1)
        self._width[rows] = draw(0.2, 0.95, count)
        self._lean[rows] = draw(0.3, 0.9, count)
        self._noise[rows] = draw(0.0, 0.1, count)
        self._synchronous[rows] = draw(-0.3, 0.3, count)
        self._error[rows] = draw(-np.pi, np.pi, count)

    def observed(self) -> FloatBatch:
        """Return what is seen now [rows, ...]."""
        spec, normal = self._spec, self._generator.normal
        rows = self._error.size
        if spec.kind != "beam-phase":
            return normal(0.0, 1.0, (rows, *spec.shape)).astype(np.float32)
        place = np.linspace(-1.0, 1.0, spec.n_slices)[None, :] / self._width
        density = np.maximum(0.0, 1.0 - place**2) * (1.0 + self._lean * np.sin(self._error) * place)
        density /= density.mean(axis=1, keepdims=True)
        density += self._noise * normal(size=density.shape)
        return np.concatenate([density, self._synchronous], axis=1).astype(np.float32)

    def apply(self, applied: NDArray[Any]) -> None:
        """Turn the phase by what was applied [rows, n_action]."""
        if self._spec.kind == "beam-phase":
            self._error += applied[:, :1]
