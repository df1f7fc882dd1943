"""Python's garbage collector, kept out of decisions.

With all that the loop has loaded (some 200,000 objects that are never garbage) a full collection takes
0.1 s, and the interpreter begins one whenever its counters say so. During a run only what was made since
it began is looked at, and only where the loop says so: behind the machine's answer.
"""

from __future__ import annotations

import gc
from types import TracebackType

EVERY_CYCLES = 100
"""A cycle leaves next to no garbage of the kind that only a collection finds: exceptions, above all."""


class Collector:
    """Within its `with` block nothing is collected but by `between_cycles`.

    What existed before is set apart (`gc.freeze`) and is not looked at. The collector is the process's: of
    blocks within each other the outermost sets it free again.
    """

    def __init__(self) -> None:
        self._cycles = 0
        self._frozen = self._disabled = False

    def __enter__(self) -> Collector:
        self._frozen, self._disabled = gc.get_freeze_count() == 0, gc.isenabled()
        if self._frozen:
            gc.freeze()
        gc.disable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._frozen:
            gc.unfreeze()
        if self._disabled:
            gc.enable()

    def between_cycles(self) -> None:
        """Collect, now and then: to be called where nobody waits."""
        self._cycles += 1
        if self._cycles % EVERY_CYCLES == 0:
            gc.collect()
