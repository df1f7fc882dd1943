"""Made-up traces for tests: every optional part present in some cycle and absent in another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import MachineDescription, Quality, Reading, Receipt
from memrl_ctrl.errors import RefusalReason
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace import (
    CycleRecord,
    JournalWriter,
    OutcomeRecord,
    PolicyStep,
    Signer,
    TraceHeader,
    Verdict,
)

STAGES = ("finite", "step", "slope")
MEMORY = 5
"""Elements of each memory a point."""
VARIANTS = 16
"""Different cycles that `endless_cycles` has."""


def sample_header(points: int = 3, n_slices: int = 16, mode: str = "closed-loop") -> TraceHeader:
    """Return the header of a made-up run.

    Args:
        points: control points.
        n_slices: bins of a profile.
        mode: mode of the run.
    """
    machine = MachineDescription(
        name="psb",
        program="made-up",
        points=points,
        n_slices=n_slices,
        limits=PhaseLimits(),
        period_s=1.2,
        writable=True,
        ctime_ms=np.linspace(275.0, 805.0, points),
        backend="fake",
    )
    return TraceHeader.begin(
        mode=mode,
        machine=machine,
        limits=PhaseLimits(step_rad=0.5),
        policy=bytes(range(256)),
        policy_name="made-up",
        manifest_json='{"version": 1}',
        guard_stages=STAGES,
        measures={"asymmetry": "1", "bunch.length/s": "s"},
        configuration={"cycles": 3, "backend": {"name": "fake", "noise": 0.02}, "none": None},
        files={"program.yaml": b"name: made-up\n"},
    )


def sample_cycle(header: TraceHeader, cycle: int, seed: int = 0) -> CycleRecord:
    """Return a made-up cycle: every fourth without a policy, every third without a setpoint.

    Args:
        header: the run's header, from `sample_header`.
        cycle: number of the cycle.
        seed: with `cycle` decides all values.
    """
    rng = np.random.default_rng([seed, cycle])
    points, n_slices = header.machine.points, header.machine.n_slices
    bins = (np.arange(n_slices) + 0.5) / n_slices
    bunch = np.maximum(0.0, 1.0 - ((bins - 0.5) / 0.3) ** 2)
    profile = (bunch + 0.02 * rng.normal(size=(points, n_slices))).astype(np.float32)
    quality = np.zeros(points, dtype=np.uint16)
    if cycle % 5 == 1:
        profile[0] = np.nan
        quality[0] = Quality.NOT_FINITE
    hold = rng.normal(size=points)
    reading = Reading(
        cycle=cycle,
        stamp_ns=1_700_000_000_000_000_000 + cycle * 1_200_000_000,
        received_ns=cycle * 1_200_000_000,
        profile=profile,
        setpoint_rad=hold,
        applied_rad=hold.copy(),
        readback_rad=hold + 1e-3 * rng.normal(size=points),
        synchronous_phase_rad=np.full(points, 0.1),
        quality=quality,
    )
    writes = cycle % 3 != 2
    events = ({"kind": "operator", "what": "note", "text": "beam ✓"},) if cycle % 7 == 3 else ()
    return CycleRecord(
        reading=reading,
        mode=header.mode if writes else "shadow",
        policy=None if cycle % 4 == 3 else _sample_step(rng, points, n_slices),
        verdicts=rng.choice([int(verdict) for verdict in Verdict], (points, len(STAGES))).astype(
            np.uint8
        ),
        proposed_rad=rng.normal(size=points),
        written_rad=rng.normal(size=points) if writes else None,
        target_cycle=cycle + 1 if writes else None,
        measures={"asymmetry": rng.normal(size=points), "bunch.length/s": rng.random(points)},
        timings_ns={"receive": 1000 + cycle, "observe": 2000}
        | ({"infer": 3000} if cycle % 4 != 3 else {}),
        events=events,
    )


def _sample_step(rng: np.random.Generator, points: int, n_slices: int) -> PolicyStep:
    def drawn(columns: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return rng.normal(size=(points, columns)).astype(np.float32)

    return PolicyStep(
        observation=drawn(n_slices + 1),
        previous_applied=drawn(1),
        memory_in={"h_in": drawn(MEMORY), "steps/in": np.full((points, 1), 7, dtype=np.int64)},
        action=drawn(1),
        memory_out={"h_out": drawn(MEMORY), "steps/out": np.full((points, 1), 8, dtype=np.int64)},
    )


def digitised_cycle(
    header: TraceHeader, cycle: int, before: CycleRecord | None = None, *, hidden: int = 128
) -> CycleRecord:
    """Return a cycle as a digitiser of 10 bits and an LSTM policy leave it.

    Args:
        header: the run's header, from `sample_header`.
        cycle: number of the cycle; decides all values.
        before: the cycle before: its policy's memory goes into this one.
        hidden: size of each of the two memories a point.
    """
    rng = np.random.default_rng([2, cycle])
    points, n_slices = header.machine.points, header.machine.n_slices
    bins = (np.arange(n_slices) + 0.5) / n_slices
    bunch = np.maximum(0.0, 1.0 - ((bins - 0.5) / 0.3) ** 2)
    # As the simulated monitor shows it: one range for the cycle, a bunch that gets shorter, 2 % of noise.
    step = np.float32(0.0034)
    height = np.linspace(0.3, 1.0, points)[:, None]
    codes = np.round((height * (bunch + 0.02 * rng.normal(size=(points, n_slices))) + 0.3) / step)
    profile = np.float32(-0.3) + step * np.clip(codes, 0, 1023).astype(np.float32)
    record = sample_cycle(header, 4 * (cycle // 4))  # one with a policy

    def drawn(columns: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return np.tanh(rng.normal(size=(points, columns))).astype(np.float32)

    names = ("h_in", "h_out"), ("c_in", "c_out")
    earlier = None if before is None else before.policy
    step_ = PolicyStep(
        observation=drawn(129),
        previous_applied=drawn(1),
        memory_in={
            in_: drawn(hidden) if earlier is None else earlier.memory_out[out] for in_, out in names
        },
        action=drawn(1),
        memory_out={out: drawn(hidden) for _, out in names},
    )
    reading = dataclasses.replace(
        record.reading, cycle=cycle, profile=profile, quality=np.zeros(points, dtype=np.uint16)
    )
    return dataclasses.replace(record, reading=reading, policy=step_)


def sample_outcome(record: CycleRecord) -> OutcomeRecord | None:
    """Return what became of a made-up cycle: taken, refused in every fifth; None without a setpoint.

    Args:
        record: the cycle.
    """
    if record.written_rad is None or record.target_cycle is None:
        return None
    if record.cycle % 5 == 0:
        return OutcomeRecord(
            cycle=record.cycle,
            reason=RefusalReason.LATE,
            detail="0.1 ms after the deadline",
            timings_ns={"write": 4000},
            events=({"kind": "refused"},),
        )
    receipt = Receipt(
        cycle=record.target_cycle,
        applied_rad=record.written_rad,
        committed_ns=record.reading.received_ns + 5000,
        fence=3,
    )
    return OutcomeRecord(cycle=record.cycle, receipt=receipt, timings_ns={"write": 5000})


def write_sample_journal(
    path: Path,
    cycles: int = 6,
    header: TraceHeader | None = None,
    *,
    seed: int = 0,
    signer: Signer | None = None,
) -> list[CycleRecord]:
    """Write the journal of a made-up run that ended by itself, and return its cycles.

    Args:
        path: the new journal.
        cycles: how many; their numbers begin at 100.
        header: the run's header; None makes one.
        seed: decides all values.
        signer: signs it; None does not.
    """
    header = header or sample_header()
    records = [sample_cycle(header, 100 + index, seed) for index in range(cycles)]
    with JournalWriter(path, header, signer) as journal:
        for record in records:
            journal.append(record, durable=False)
            outcome = sample_outcome(record)
            if outcome is not None:
                journal.append(outcome, durable=False)
    return records


def endless_cycles(header: TraceHeader) -> Iterator[CycleRecord]:
    """Yield digitised cycles from 0 for ever; each carries the memory of the one before.

    Args:
        header: the run's header, from `sample_header`.
    """
    made: list[CycleRecord] = []
    for cycle in range(VARIANTS):
        made.append(digitised_cycle(header, cycle, made[-1] if made else None))
    cycle = 0
    while True:
        record, before = made[cycle % VARIANTS], made[cycle % VARIANTS - 1].policy
        if cycle >= VARIANTS and cycle % VARIANTS == 0 and record.policy and before:
            memory = dict(zip(record.policy.memory_in, before.memory_out.values(), strict=True))
            record = dataclasses.replace(
                record, policy=dataclasses.replace(record.policy, memory_in=memory)
            )
        reading = dataclasses.replace(record.reading, cycle=cycle)
        target = None if record.target_cycle is None else cycle + 1
        yield dataclasses.replace(record, reading=reading, target_cycle=target)
        cycle += 1


def record_until_killed(path: str, acknowledge: Connection, points: int, n_slices: int) -> None:
    """Record endless cycles, durably and signed, and say each cycle's number once it is on the disk.

    Args:
        path: the new journal.
        acknowledge: where the numbers go.
        points: control points.
        n_slices: bins of a profile.
    """
    header = sample_header(points=points, n_slices=n_slices)
    with JournalWriter(path, header, Signer(bytes(range(32)))) as journal:
        for record in endless_cycles(header):
            journal.append(record)
            acknowledge.send_bytes(record.cycle.to_bytes(8, "little"))
            outcome = sample_outcome(record)
            if outcome is not None:
                journal.append(outcome, durable=False)


def reading_at(
    applied_rad: NDArray[np.float64], *, n_slices: int = 128, cycle: int = 0, noise: float = 0.02
) -> Reading:
    """Return a reading of healthy, noisy bunches at the given phases.

    Args:
        applied_rad: setpoint, applied and readback alike [points], rad.
        n_slices: slices a turn.
        cycle: number of the cycle; it seeds the noise.
        noise: of a slice, as a share of the peak.
    """
    place = np.linspace(-1.0, 1.0, n_slices)
    bunch = np.maximum(0.0, 1.0 - np.square(place / 0.6))
    shape = (applied_rad.size, n_slices)
    profile = bunch + noise * np.random.default_rng(cycle).normal(size=shape)
    return Reading(
        cycle=cycle,
        stamp_ns=0,
        received_ns=0,
        profile=profile.astype(np.float32),
        setpoint_rad=applied_rad,
        applied_rad=applied_rad,
        readback_rad=applied_rad,
        synchronous_phase_rad=np.zeros(applied_rad.size),
        quality=np.zeros(applied_rad.size, dtype=np.uint16),
    )
