"""Checks of every promise of `memrl_ctrl.backend`, for any backend."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np

from memrl_ctrl.backend import (
    AlongCycle,
    BeamBackend,
    BeamSource,
    FloatArray,
    Reading,
    RefusalReason,
    Refused,
)
from memrl_ctrl.errors import MemrlError

DEADLINE_S = 2.0
"""Deadline given with submissions that are meant to succeed, s."""


class ContractBroken(AssertionError):  # noqa: N818 - a sentence, not a suffix
    """A backend does not keep a promise of `memrl_ctrl.backend`."""


def require(kept: object, promise: str) -> None:
    """Raise `ContractBroken` unless a promise is kept.

    Args:
        kept: true where it is.
        promise: what should be so, and what is.
    """
    if not kept:
        raise ContractBroken(promise)


def refusal_of(backend: BeamBackend, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> str:
    """Submit what must be refused and return the reason's value; "" where it was taken."""
    try:
        backend.submit(phi_hw_rad, cycle, deadline_s)
    except Refused as refused:
        return refused.reason.value
    return ""


def held(backend: BeamBackend, reading: Reading) -> FloatArray:
    """Return phi_hw [points] that plays after `reading` if nothing is submitted.

    It is what is applied, except where the rows move along a cycle: there the backend says it.
    """
    return backend.held_rad if isinstance(backend, AlongCycle) else reading.applied_rad


class BackendContract:
    """Derive a test class from this and say how to make the backend.

    `make_backend` is called once a test; the backend is closed afterwards. pytest's own
    `teardown_method` is free for what else has to be stopped. A backend whose description says that
    it is not writable is checked for refusing instead.
    """

    registered_as: ClassVar[str] = ""
    """Name under which the backend is registered, if it is; so that none is without a case."""

    def make_backend(self) -> BeamBackend:
        """Return a new backend with at least eight cycles to come."""
        raise NotImplementedError("a contract test says how its backend is made")

    @contextmanager
    def opened(self) -> Iterator[BeamBackend]:
        """Make a backend for the length of a `with` block."""
        backend = self.make_backend()
        try:
            yield backend
        finally:
            backend.close()

    # What is seen

    def test_has_the_methods_of_a_backend(self) -> None:
        """A registered backend looks and writes, or refuses to write."""
        with self.opened() as backend:
            require(isinstance(backend, BeamSource), "it has description, observe and close")
            require(isinstance(backend, BeamBackend), "it has start, submit and play")

    def test_description_is_consistent_and_stays(self) -> None:
        """The description fits the readings and is the same before and after them."""
        with self.opened() as backend:
            before = backend.description
            require(before.name and before.program, "machine and program have names")
            require(before.period_s >= 0 and math.isfinite(before.period_s), "period_s is a time")
            reading = backend.start()
            self.check_shapes(backend, reading)
            after = backend.description
            for name in ("name", "program", "points", "n_slices", "limits", "writable", "fidelity"):
                require(
                    getattr(before, name) == getattr(after, name),
                    f"{name} of the description stays {getattr(before, name)!r}",
                )

    def test_readings_have_the_promised_shapes_and_types(self) -> None:
        """Every reading has the shapes, types and units of the description."""
        with self.opened() as backend:
            for reading in (backend.start(), backend.observe(), backend.observe()):
                self.check_shapes(backend, reading)

    def test_observes_without_being_started(self) -> None:
        """A source that only looks needs no start."""
        with self.opened() as backend:
            self.check_shapes(backend, backend.observe())

    def test_cycle_and_clock_go_forward(self) -> None:
        """The cycle number increases and the receive time never goes back."""
        with self.opened() as backend:
            readings = [backend.start()] + [backend.observe() for _ in range(4)]
            for earlier, later in itertools.pairwise(readings):
                require(later.cycle > earlier.cycle, f"cycle after {earlier.cycle} is later")
                require(later.received_ns >= earlier.received_ns, "received_ns is monotonic")
            require(
                0 < readings[-1].received_ns <= time.monotonic_ns(),
                "received_ns is this process's monotonic clock",
            )

    def test_a_reading_does_not_change_afterwards(self) -> None:
        """Playing on leaves an earlier reading as it was."""
        with self.opened() as backend:
            reading = backend.start()
            profile, applied = reading.profile.copy(), reading.applied_rad.copy()
            if backend.description.writable:
                backend.play(self.moved(backend, reading))
            backend.observe()
            require(
                np.array_equal(profile, reading.profile, equal_nan=True)
                and np.array_equal(applied, reading.applied_rad),
                "the arrays of a reading are its own",
            )

    # What is written

    def test_what_is_submitted_is_applied(self) -> None:
        """A function that was taken plays from the receipt's cycle on."""
        with self.opened() as backend:
            if not backend.description.writable:
                return
            reading = backend.start()
            wanted = self.moved(backend, reading)
            sent = wanted.copy()
            receipt = backend.submit(sent, reading.cycle + 1, DEADLINE_S)
            sent += 1.0  # the caller's array is the caller's
            require(receipt.cycle == reading.cycle + 1, "the receipt names the cycle")
            require(
                np.array_equal(receipt.applied_rad, wanted), "the receipt tells what is applied"
            )
            require(receipt.committed_ns <= time.monotonic_ns(), "committed_ns is monotonic")
            after = backend.observe()
            require(after.cycle >= receipt.cycle, "the next reading is of that cycle or later")
            require(np.array_equal(after.applied_rad, wanted), "the reading shows it applied")
            require(np.array_equal(after.setpoint_rad, wanted), "the reading shows the setpoint")

    def test_play_submits_and_observes(self) -> None:
        """`play` returns the cycle that played what it was given."""
        with self.opened() as backend:
            if not backend.description.writable:
                return
            first = backend.start()
            wanted = self.moved(backend, first)
            second = backend.play(wanted)
            require(second.cycle > first.cycle, "play moves on by a cycle")
            require(np.array_equal(second.applied_rad, wanted), "play applies what it was given")

    def test_without_a_submission_it_holds(self) -> None:
        """The last applied function stays until another is taken."""
        with self.opened() as backend:
            reading = backend.start()
            if backend.description.writable:
                reading = backend.play(self.moved(backend, reading))
                holds = held(backend, reading)
                after = backend.observe()
                require(np.array_equal(after.applied_rad, holds), "it holds")

    def test_what_breaks_a_limit_is_refused_whole(self) -> None:
        """Value, step, slope, shape and NaN have typed refusals, and nothing of them is applied."""
        with self.opened() as backend:
            if not backend.description.writable:
                return
            reading = backend.start()
            for index in range(len(self.unlawful(backend, reading))):
                holds = held(backend, reading)
                reason, phi_hw_rad = self.unlawful(backend, reading)[index]
                got = refusal_of(backend, phi_hw_rad, reading.cycle + 1, DEADLINE_S)
                require(got == reason, f"{reason} is refused as such, not as {got or 'taken'!r}")
                after = backend.observe()
                require(
                    np.array_equal(after.applied_rad, holds),
                    f"nothing is applied of what was refused ({reason})",
                )
                reading = after

    def test_late_is_refused(self) -> None:
        """A cycle that has been played, or a deadline that has passed, is refused as late."""
        with self.opened() as backend:
            if not backend.description.writable:
                return
            reading = backend.start()
            wanted, holds = self.moved(backend, reading), held(backend, reading)
            for cycle, deadline_s in (
                (reading.cycle, DEADLINE_S),
                (reading.cycle - 1, DEADLINE_S),
                (reading.cycle + 1, 0.0),
                (reading.cycle + 1, -1.0),
            ):
                got = refusal_of(backend, wanted, cycle, deadline_s)
                require(
                    got == RefusalReason.LATE,
                    f"cycle {cycle} at {reading.cycle} with {deadline_s} s left is late, not {got!r}",
                )
            after = backend.observe()
            require(np.array_equal(after.applied_rad, holds), "late is not applied")

    def test_a_later_cycle_is_refused_or_waited_for(self) -> None:
        """A function for the cycle after the next never plays before it."""
        with self.opened() as backend:
            if not backend.description.writable:
                return
            reading = backend.start()
            wanted = self.moved(backend, reading)
            taken = not refusal_of(backend, wanted, reading.cycle + 2, DEADLINE_S)
            holds = held(backend, reading)
            after = backend.observe()
            while after.cycle < reading.cycle + 2:
                same = np.array_equal(after.applied_rad, holds)
                require(same, "it does not play early")
                holds = held(backend, after)
                after = backend.observe()
            expected = wanted if taken else holds
            require(np.array_equal(after.applied_rad, expected), "it plays as promised")

    def test_read_only_refuses_to_write(self) -> None:
        """A backend that is not writable says so, typed, and plays nothing."""
        with self.opened() as backend:
            if backend.description.writable:
                return
            reading = backend.start()
            got = refusal_of(backend, reading.applied_rad, reading.cycle + 1, DEADLINE_S)
            require(got == RefusalReason.READ_ONLY, f"submit is refused as read-only, not {got!r}")
            try:
                backend.play(reading.applied_rad)
            except Refused as refused:
                require(refused.reason is RefusalReason.READ_ONLY, "play is refused as read-only")
            else:
                raise ContractBroken("play is refused as read-only, not taken")

    # Beginning and ending

    def test_start_with_a_mask_leaves_the_other_rows(self) -> None:
        """Unrelated rows outside the mask go on; on a machine everything does."""
        with self.opened() as backend:
            before = backend.start()
            if before.truth is not None and backend.description.ctime_ms is not None:
                return  # one bunch plays the whole cycle: there is no part of it to begin anew
            if backend.description.writable:
                before = backend.play(self.moved(backend, before))
            mask = np.arange(backend.description.points) % 2 == 0
            after = backend.start(mask=mask)
            self.check_shapes(backend, after)
            require(after.cycle >= before.cycle, "starting again never goes back in cycles")
            kept = ~mask if after.truth is not None else np.ones_like(mask)
            if backend.description.writable:
                same = np.array_equal(after.applied_rad[kept], before.applied_rad[kept])
                require(same, "phi_hw of the other rows stays")
            if after.truth is not None and before.truth is not None:
                same = np.array_equal(
                    after.truth.emittance_evs[kept], before.truth.emittance_evs[kept]
                )
                require(same, "conditions of the other rows stay")

    def test_a_seed_repeats_a_simulation(self) -> None:
        """The same seed gives the same hidden conditions again."""
        with self.opened() as backend:
            first, second = backend.start(seed=11).truth, backend.start(seed=11).truth
            if first is not None and second is not None:
                for name in ("offset_rad", "emittance_evs", "intensity"):
                    same = np.array_equal(getattr(first, name), getattr(second, name))
                    require(same, f"{name} comes back with the seed")

    def test_truth_is_consistent(self) -> None:
        """phi_2 is what was applied less the hidden offset, on the circle."""
        with self.opened() as backend:
            reading = backend.start()
            truth = reading.truth
            if truth is None:
                return
            for name in ("reference_rad", "offset_rad", "phi2_rad", "emittance_evs", "intensity"):
                shape = getattr(truth, name).shape
                require(shape == (backend.description.points,), f"truth.{name} has shape {shape}")
            turn = np.exp(1j * (truth.phi2_rad + truth.offset_rad - reading.applied_rad))
            require(np.allclose(turn, 1.0, atol=1e-6), "phi_2 = phi_hw - offset")

    def test_an_unknown_option_is_refused(self) -> None:
        """`start` names an option that it does not know."""
        with self.opened() as backend:
            try:
                backend.start(options={"no-such-option": 1})
            except MemrlError as error:
                require("no-such-option" in str(error), "the refusal names the option")
            else:
                raise ContractBroken("an unknown option of start is refused")

    def test_closes_twice(self) -> None:
        """Closing again does nothing."""
        backend = self.make_backend()
        backend.start()
        backend.close()
        backend.close()

    # What the checks are made of

    def check_shapes(self, backend: BeamBackend, reading: Reading) -> None:
        """Require the shapes and types of one reading."""
        points, n_slices = backend.description.points, backend.description.n_slices
        for name, dtype, shape in (
            ("profile", np.float32, (points, n_slices)),
            ("setpoint_rad", np.float64, (points,)),
            ("applied_rad", np.float64, (points,)),
            ("readback_rad", np.float64, (points,)),
            ("synchronous_phase_rad", np.float64, (points,)),
            ("quality", np.uint16, (points,)),
        ):
            array = getattr(reading, name)
            require(array.dtype == dtype, f"{name} is {np.dtype(dtype)}, not {array.dtype}")
            require(array.shape == shape, f"{name} has shape {shape}, not {array.shape}")
        require(isinstance(reading.cycle, int), "the cycle is an int")
        require(reading.stamp_ns > 0, "stamp_ns is set")
        require(np.isfinite(reading.profile[reading.usable]).all(), "usable profiles are finite")
        require(np.isfinite(reading.applied_rad).all(), "what is applied is finite")
        require((np.abs(reading.synchronous_phase_rad) <= math.pi).all(), "phi_s is in radians")

    def moved(self, backend: BeamBackend, reading: Reading) -> FloatArray:
        """Return a lawful function that differs from what is applied: all points by one amount."""
        limits = backend.description.limits
        applied = held(backend, reading)
        amount = min(0.3 * limits.step_rad, 0.25)
        if applied.max() + amount > limits.max_rad:
            amount = -amount
        return np.asarray(applied + amount, dtype=np.float64)

    def unlawful(
        self, backend: BeamBackend, reading: Reading
    ) -> list[tuple[RefusalReason, FloatArray]]:
        """Return functions that must be refused, with the reason."""
        return list(self._unlawful(backend, reading))

    def _unlawful(
        self, backend: BeamBackend, reading: Reading
    ) -> Iterator[tuple[RefusalReason, FloatArray]]:
        limits, ctime_ms = backend.description.limits, backend.description.ctime_ms
        lawful = self.moved(backend, reading)
        yield RefusalReason.UNKNOWN_POINT, np.append(lawful, lawful[-1])
        if lawful.size > 1:
            yield RefusalReason.UNKNOWN_POINT, lawful[:-1]
        broken = lawful.copy()
        broken[-1] = np.nan
        yield RefusalReason.NOT_FINITE, broken
        broken = lawful.copy()
        broken[-1] = np.inf
        yield RefusalReason.NOT_FINITE, broken
        broken = lawful.copy()
        broken[-1] = limits.max_rad + 0.1
        yield RefusalReason.LIMIT, broken
        holds = held(backend, reading)
        up = holds + 1.1 * limits.step_rad
        down = holds - 1.1 * limits.step_rad
        if (up <= limits.max_rad).all() or (down >= limits.min_rad).all():
            yield RefusalReason.STEP, up if (up <= limits.max_rad).all() else down
        if ctime_ms is not None and ctime_ms.size > 1:
            zigzag = reading.applied_rad.copy()
            zigzag[::2] += 0.99 * limits.step_rad
            zigzag[1::2] -= 0.99 * limits.step_rad
            slope = np.abs(np.diff(zigzag)) / np.diff(ctime_ms)
            within = (zigzag <= limits.max_rad).all() and (zigzag >= limits.min_rad).all()
            if within and slope.max() > 1.01 * limits.slope_rad_per_ms:
                yield RefusalReason.SLOPE, zigzag
