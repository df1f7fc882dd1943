"""What must stay the same from cycle to cycle, so that the cycles can be stacked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import MismatchError
from memrl_ctrl.frames import MAX_ARRAYS
from memrl_ctrl.trace.codec import MEASURE, MEMORY_IN, MEMORY_OUT, Arrays, cycle_arrays
from memrl_ctrl.trace.records import CycleRecord, OutcomeRecord, TraceHeader


class LayoutError(MismatchError, ValueError):
    """A record that does not fit the others of its run: a machine or a policy that changed within it.

    A `ValueError` too, as of any other record that cannot be recorded.
    """


class Layout:
    """Element types and shapes of the arrays of a run's cycles.

    The header fixes what it can; what a policy brings (observation, memory) is fixed by the first
    cycle in which it was asked.

    Args:
        header: the run's header.
    """

    def __init__(self, header: TraceHeader) -> None:
        machine = header.machine
        self._shapes: dict[str, tuple[int, ...]] = {
            "profile": (machine.points, machine.n_slices),
            "verdicts": (machine.points, len(header.guard_stages)),
        }
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._measures = {MEASURE + name for name in header.measures}
        self._memory: set[str] | None = None

    def check(self, record: CycleRecord) -> Arrays:
        """Return the cycle's arrays by name.

        Raises:
            LayoutError: one of them has another shape or type than in the run's other cycles, the
                measures or memories are not those of the other cycles, or there are too many.
        """
        arrays = cycle_arrays(record)
        if len(arrays) > MAX_ARRAYS:
            memories = sum(name.startswith((MEMORY_IN, MEMORY_OUT)) for name in arrays)
            raise LayoutError(
                f"cycle {record.cycle} has {len(arrays)} arrays, {memories} of them memories of the "
                f"policy; at most {MAX_ARRAYS} can be recorded: a policy with fewer memories is needed"
            )
        for name, array in arrays.items():
            shape = self._shapes.setdefault(name, array.shape)
            dtype = self._dtypes.setdefault(name, array.dtype)
            if array.shape != shape or array.dtype != dtype:
                raise LayoutError(_difference(record.cycle, name, array, shape, dtype))
        self._check_names(record, arrays)
        return arrays

    def check_outcome(self, record: OutcomeRecord) -> None:
        """Check what an outcome brings.

        Raises:
            LayoutError: the receipt's function has another shape or type than the run's.
        """
        if record.receipt is None:
            return
        applied, shape = record.receipt.applied_rad, self._shapes["profile"][:1]
        if applied.shape != shape or applied.dtype != np.float64:
            raise LayoutError(
                _difference(record.cycle, "the receipt", applied, shape, np.dtype(np.float64))
            )

    def _check_names(self, record: CycleRecord, arrays: Arrays) -> None:
        measures = {name for name in arrays if name.startswith(MEASURE)}
        if measures != self._measures:
            raise LayoutError(
                f"cycle {record.cycle} has the measures {sorted(measures)}; "
                f"the run's header announces {sorted(self._measures)}; begin a new run"
            )
        if record.policy is None:
            return
        memory = {name for name in arrays if name.startswith((MEMORY_IN, MEMORY_OUT))}
        if self._memory is None:
            self._memory = memory
        elif memory != self._memory:
            raise LayoutError(
                f"cycle {record.cycle} has the memories {sorted(memory)}; "
                f"earlier ones of the run have {sorted(self._memory)}; begin a new run"
            )


def _difference(
    cycle: int,
    name: str,
    array: NDArray[Any],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> str:
    return (
        f"{name} of cycle {cycle} is {array.dtype} {list(array.shape)}; "
        f"in this run it is {dtype} {list(shape)}: a trace keeps one shape, begin a new run"
    )
