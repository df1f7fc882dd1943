"""Policy files that can be looked into: what their graph computes on the way, given out beside the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.policy.onnxfile import nodes, with_outputs
from memrl_ctrl.policy.runner import OnnxPolicy, open_session
from memrl_ctrl.training.memory.insight import Array, Block, Glimpse, Looked, shares

COUNT = "window_count_in"
"""Memory of a policy with a window: how many of its steps are valid."""
NO_VALUE = "the value is not known: a policy file holds no critic (a run folder does)"
NO_SPREAD = "the spread of its actions is not known: a policy file gives their mean only"
NO_CELL = "of its LSTM h is shown, not c: its file gives c only for a window that is full"
NO_PROBABILITIES = "the probabilities of its choices cannot be found in its graph"


class OnnxInsight(Looked):
    """Looks into a policy file.

    A stateful LSTM carries h and c as the file's memory. A window's LSTM and the probabilities of
    choices are found in the graph: what goes into its `ArgMax`, what comes out of its `LSTM`.

    Args:
        path: of the file.

    Raises:
        PolicyError: it is none.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._policy: OnnxPolicy = OnnxPolicy.load(path)
        spec = self._policy.manifest
        graph = nodes(self._policy.data)
        self._windowed = any(memory.name_in == COUNT for memory in spec.memory)
        # LSTM: Y is h after each step [time, 1, rows, size].
        lstms = [node.outputs[0] for node in graph if node.kind == "LSTM" and node.outputs[0]]
        self._lstms = lstms if self._windowed else []
        chosen = [node.inputs[0] for node in graph if node.kind == "ArgMax"]
        self._logits = chosen if len(chosen) == len(spec.action.choices) else []
        wanted = [*self._logits, *self._lstms]
        self._inner = open_session(str(path), with_outputs(self._policy.data, wanted))
        notes = [NO_VALUE]
        if spec.action.choices and not self._logits:
            notes.append(NO_PROBABILITIES)
        if not spec.action.choices and spec.training.algorithm == "ppo-lstm":
            notes.append(NO_SPREAD)
        if self._windowed:
            notes.append(NO_CELL)
        self.notes = tuple(notes)
        self._blocks = self._found_blocks()

    def act(
        self, observation: Array, previous_applied: Array, truth: Array | None = None
    ) -> NDArray[Any]:
        """See `Insight`."""
        before = self._policy.memory
        action = self._policy.act(observation, previous_applied)
        inner = self._look(observation, previous_applied, before)
        rows, spec = len(observation), self.manifest
        if self._windowed:
            last = before[COUNT][:, 0].astype(np.int64)
            state = [_at_end(inner[name][:, 0], last) for name in self._lstms]
        else:
            after = self._policy.memory
            state = [after[memory.name_in].reshape(rows, -1) for memory in spec.memory]
        logits = [inner[name].reshape(rows, -1) for name in self._logits]
        self._glimpse = Glimpse(
            state=np.concatenate(state, axis=1).astype(np.float32),
            probabilities=shares(np.concatenate(logits, axis=1), spec.action.choices)
            if logits
            else None,
            value=None,
        )
        return action

    def _look(
        self, observation: Array, previous: Array, memory: dict[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Return values from within the graph, by name."""
        wanted = [*self._logits, *self._lstms]
        if not wanted:
            return {}
        spec = self.manifest
        feeds = {spec.observation.name: observation, spec.action.previous_name: previous, **memory}
        return dict(zip(wanted, self._inner.run(wanted, feeds), strict=True))

    def _found_blocks(self) -> tuple[Block, ...]:
        spec = self.manifest
        if not self._windowed:
            return tuple(
                Block(name=f"actor {_counted(m.name_in)}", size=int(np.prod(m.shape)))
                for m in spec.memory
            )
        self._policy.reset(1)
        seen = np.zeros((1, *spec.observation.shape), dtype=np.float32)
        before = np.zeros((1, *spec.action.shape), dtype=np.float32)
        inner = self._look(seen, before, self._policy.memory)
        return tuple(
            Block(name=f"actor h{number}", size=inner[name].shape[-1])
            for number, name in enumerate(self._lstms, start=1)
        )


def _counted(name: str) -> str:
    """Return the name of a memory as in a run: `h0_in` is `h1`, the first layer's."""
    stem = name.removesuffix("_in")
    return (
        f"{stem[0]}{int(stem[1:]) + 1}" if stem[:1] in {"h", "c"} and stem[1:].isdigit() else stem
    )


def _at_end(h: Array, count: NDArray[np.int64]) -> Array:
    """Return h [time, rows, size] behind the last valid step [rows, size]; 0 for an empty window."""
    last = h[np.maximum(count - 1, 0), np.arange(h.shape[1])]
    return np.where(count[:, None] > 0, last, np.float32(0.0))
