"""A backend of one's own: an entry point of the group `memrl_ctrl.backends` names `open_backend`."""

import time

import numpy as np

from memrl_ctrl.backend import MachineDescription, Reading, Receipt, RefusalReason, Refused
from memrl_ctrl.errors import UnknownNameError
from memrl_ctrl.limits import PhaseLimits


class Cosine:
    """One control point whose bunch leans by the sine of how far phi_hw is from 0.4 rad."""

    def __init__(self, n_slices: int = 128) -> None:
        self.description = MachineDescription(
            name="cosine", program="none", points=1, n_slices=n_slices, limits=PhaseLimits(),
            period_s=0.0, writable=True, backend="cosine",
        )  # fmt: skip
        self.cycle, self.applied, self.next = 0, np.zeros(1), np.zeros(1)

    def start(self, seed=None, mask=None, options=None):
        if options:
            raise UnknownNameError("start option", next(iter(options)), ())
        return self.observe()  # a machine changes nothing here

    def submit(self, phi_hw_rad, cycle, deadline_s):
        if cycle <= self.cycle or deadline_s <= 0.0:
            raise Refused(RefusalReason.LATE, f"cycle {cycle} has begun")
        if cycle > self.cycle + 1:
            raise Refused(RefusalReason.INVALID, f"only cycle {self.cycle + 1} can be set now")
        self.description.limits.check(phi_hw_rad, self.applied, None)
        self.next = np.array(phi_hw_rad, dtype=np.float64)
        return Receipt(cycle=cycle, applied_rad=self.next.copy(), committed_ns=time.monotonic_ns())

    def observe(self, timeout_s=None):
        self.cycle, self.applied = self.cycle + 1, self.next.copy()
        phase = np.linspace(-np.pi, np.pi, self.description.n_slices)
        lean = 0.2 * np.sin(self.applied[0] - 0.4)
        profile = np.maximum(0.0, np.cos(phase)) ** 2 * (1.0 + lean * np.sin(phase))
        return Reading(
            cycle=self.cycle, stamp_ns=time.time_ns(), received_ns=time.monotonic_ns(),
            profile=profile[None].astype(np.float32), setpoint_rad=self.applied.copy(),
            applied_rad=self.applied.copy(), readback_rad=self.applied.copy(),
            synchronous_phase_rad=np.zeros(1), quality=np.zeros(1, dtype=np.uint16),
        )  # fmt: skip

    def play(self, phi_hw_rad):
        self.submit(phi_hw_rad, self.cycle + 1, 1.0)
        return self.observe()

    def close(self):
        pass


def open_backend(*, n_slices: int = 128) -> Cosine:
    """What the entry point names; its parameters are the backend's options."""
    return Cosine(n_slices)
