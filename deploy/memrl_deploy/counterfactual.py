"""What would have happened: the policy in closed loop on a simulation fitted to the recorded readings.

The recorded profiles say which offset, emittance and intensity were behind them (`memrl_ctrl.beam`). With
these the matched kernel stands in for the machine, from the recorded state on: the policy's functions, as
the guard lets them through, are played and measured. The functions that were really played are put through
the same model, so that its own error is seen, and does not count as a gain.

Uncertain are the fit and the noise: everything is repeated with offset, emittance and intensity drawn from
the fit's uncertainties and with new noise (a parametric bootstrap; Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, chapter 6.5), and the cycles are drawn in blocks, since neighbouring ones are not
independent (moving blocks; Kuensch, Ann. Statist. 17 (1989) 1217).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading
from memrl_ctrl.beam import CycleFit, fit_cycle, matched_profiles
from memrl_ctrl.errors import BeamError, MemrlError, TraceError
from memrl_ctrl.metrics import asymmetry, mean_known, measure
from memrl_ctrl.program import CycleProgram, load_program
from memrl_ctrl.progress import report
from memrl_ctrl.trace import TraceReader
from memrl_deploy.asked import check_reaches, inform, program_of
from memrl_deploy.fallback import shown_points
from memrl_deploy.guard import usable_points
from memrl_deploy.guard.decision import Stage
from memrl_deploy.inference import Asked, Inference
from memrl_deploy.replaying import cycle_index, recorded_guard, recorded_policy
from memrl_deploy.statistics import Figure, FloatArray, of_draws

DRAWS = 20
"""Repetitions of the closed loop."""
MOST_CYCLES = 50
"""Cycles that are simulated unless told otherwise."""
SHORTER = 0.02
"""Bunching factor by which a bunch is shorter at the other phase, at least; two policies that both arrive
differ by some thousandths."""
MISFIT = 2.0
"""Largest reduced chi2 of a fit that is believed: beyond it the model misses the profiles by more than their
noise."""
FITS = 3
"""Cycles that are fitted, spread over those that are simulated; between them the offset goes straight."""


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """What the fitted model says. Asymmetries are means of |asymmetry| over points and cycles."""

    policy_name: str
    first_cycle: int
    cycles: int
    fitted: tuple[CycleFit, ...]
    recorded: float
    """Measured in the recorded profiles."""
    model_recorded: Figure
    """Of the model under the functions that were really played: its distance to `recorded` is what the model
    gets wrong."""
    model_policy: Figure
    """Of the model in closed loop with the policy."""
    gain: Figure
    """The difference of the two: positive where the policy would have been better."""
    bunching_gain: Figure
    """The policy's mean bunching factor less that of the functions that were really played, over the second
    half of the cycles: negative where the policy leads to a shorter bunch. The asymmetry is as small there,
    at the other zero of the circle."""
    by_cycle: FloatArray
    """Mean |asymmetry| [3, cycles]: recorded, model under the recorded functions, model with the policy."""

    @property
    def credible(self) -> bool:
        """Whether the model gets the recorded cycles right to a quarter, and most fits are believed."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """Why nobody should decide on the gain, in words; empty where the model is credible."""
        wrong = [why for fit in self.fitted if (why := fit.doubt(MISFIT))]
        doubts = []
        if 2 * (len(self.fitted) - len(wrong)) <= len(self.fitted):
            kinds = ", ".join(dict.fromkeys(wrong))
            doubts.append(f"{len(wrong)} of {len(self.fitted)} fits are not believed ({kinds})")
        if abs(self.model_recorded.value - self.recorded) > 0.25 * max(self.recorded, 0.02):
            doubts.append(
                f"the model has a mean |asymmetry| of {self.model_recorded.value:.3f} where "
                f"{self.recorded:.3f} was measured"
            )
        return " and ".join(doubts)

    @property
    def shortens(self) -> bool:
        """Whether, by the whole interval, the policy leads to the other phase, where the bunch is short."""
        return self.bunching_gain.high < -SHORTER


def counterfactual(
    trace: TraceReader,
    policy: Asked | None = None,
    *,
    program: str | None = None,
    from_cycle: int | None = None,
    cycles: int = MOST_CYCLES,
    draws: int = DRAWS,
    seed: int = 0,
) -> Counterfactual:
    """Close the loop in simulation, from a recorded cycle on.

    Args:
        trace: the recorded run.
        policy: who drives; None is the recorded one.
        program: the cycle program; None is that of the trace, by its name.
        from_cycle: number of the cycle to begin with; None is the first.
        cycles: how many cycles at most.
        draws: repetitions with other values within the fit's uncertainties.
        seed: of those.

    Raises:
        TraceError: the trace has no such cycle, no control points, or profiles that cannot be fitted.
        MismatchError: the policy does not fit the recorded machine.
    """
    header = trace.header
    if header.machine.ctime_ms is None:
        raise TraceError(trace.path, "its rows are unrelated conditions, not points of a cycle")
    begin = 0 if from_cycle is None else cycle_index(trace, from_cycle)
    count = min(cycles, len(trace) - begin)
    if count < 2:
        raise TraceError(trace.path, f"{count} cycles from there on; a comparison needs 2")
    policy = recorded_policy(trace) if policy is None else policy
    inform(policy, header.machine)
    loaded = _program(trace, program)
    indices = np.arange(begin, begin + count)
    shown = _shown(trace, indices)
    model = _Model.fitted(trace, loaded, indices, shown)
    played = np.stack([trace.record(int(i)).reading.applied_rad for i in indices])
    skew = np.abs(asymmetry(trace.array("profile", slice(begin, begin + count))))
    measured = mean_known(np.where(shown, skew, np.nan))
    rng = np.random.default_rng(seed)
    known, driven = np.empty((2, draws, count)), np.empty((2, draws, count))
    for draw in range(draws):
        drawn = model.drawn(rng, first=draw == 0)
        for k in range(count):
            known[:, draw, k] = _seen(drawn.profiles(k, played[k], rng), shown[k])
        driven[:, draw] = _driven(
            trace, policy, drawn, played[0], begin=begin, shown=shown, rng=rng
        )
        report(draw + 1, draws)
    return Counterfactual(
        policy_name=policy.manifest.name,
        first_cycle=int(trace.cycles[begin]),
        cycles=count,
        fitted=model.fits,
        recorded=float(np.nanmean(measured)),
        model_recorded=of_draws(known[0], rng),
        model_policy=of_draws(driven[0], rng),
        gain=of_draws(known[0] - driven[0], rng),
        bunching_gain=of_draws((driven[1] - known[1])[:, count // 2 :], rng),
        by_cycle=np.stack([measured, known[0].mean(axis=0), driven[0].mean(axis=0)]),
    )


def _shown(trace: TraceReader, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points had a reading that says something of the beam [cycles, points].

    Of the others a recorded profile is noise, and model and machine cannot be compared there.
    """
    stages, doubts = trace.header.guard_stages, (Stage.HEALTH.label,)
    records = (trace.record(int(index)) for index in indices)
    return np.stack(
        [
            usable_points(record.reading) & shown_points(record.verdicts, stages, doubts)
            for record in records
        ]
    )


def _seen(profile: NDArray[np.float32], shown: NDArray[np.bool_]) -> tuple[float, float]:
    """Return mean |asymmetry| and mean bunching factor of the `shown` ones [points] of a cycle's profiles."""
    metrics = measure(profile[shown])
    return float(mean_known(np.abs(metrics.asymmetry))), float(mean_known(metrics.bunching_factor))


def _program(trace: TraceReader, given: str | None) -> CycleProgram:
    """Return the program that was given, by name or file; else the one that the trace names."""
    machine = trace.header.machine
    try:
        if given is None:
            return program_of(machine)
        program = load_program(given)
        check_reaches(program, machine)
    except MemrlError as error:
        name = given or machine.program
        raise TraceError(
            trace.path, f"its program {name!r} cannot be used ({error}); give it with --program"
        ) from error
    return program


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The fitted bunch, cycle by cycle."""

    program: CycleProgram
    ctime_ms: FloatArray
    n_slices: int
    fits: tuple[CycleFit, ...]
    offset_rad: FloatArray
    """[cycles]"""
    emittance_evs: float
    intensity: float
    noise: FloatArray
    """Rms of a slice over the area of the bunch, 1/rad [points]."""

    @classmethod
    def fitted(
        cls,
        trace: TraceReader,
        program: CycleProgram,
        indices: NDArray[np.int64],
        shown: NDArray[np.bool_],
    ) -> _Model:
        """Fit some cycles.

        Raises:
            TraceError: none can be fitted.
        """
        ctime = np.asarray(trace.header.machine.ctime_ms, dtype=np.float64)
        chosen = np.unique(np.linspace(0, indices.size - 1, min(FITS, indices.size)).astype(int))
        fits, where, problem = [], [], ""
        for k in chosen:
            reading = trace.record(int(indices[k])).reading
            usable = shown[k]
            if not usable.any():
                continue
            try:
                fits.append(
                    fit_cycle(
                        reading.profile[usable].astype(np.float64),
                        program.machine,
                        program.at(ctime[usable]),
                        phi_hw_rad=reading.readback_rad[usable],
                    )
                )
                where.append(k)
            except BeamError as error:
                problem = str(error)
        if not fits:
            raise TraceError(
                trace.path, f"no cycle can be fitted: {problem or 'no usable profile'}"
            )
        turns = np.unwrap([fit.offset_rad for fit in fits])
        points = fits[0].points
        noise = np.nanmedian(points.noise / points.amplitude)
        return cls(
            program=program,
            ctime_ms=ctime,
            n_slices=trace.header.machine.n_slices,
            fits=tuple(fits),
            offset_rad=np.interp(np.arange(indices.size), where, turns),
            emittance_evs=float(np.median([fit.emittance_evs for fit in fits])),
            intensity=float(np.nan_to_num(np.median([fit.intensity for fit in fits]))),
            noise=np.full(ctime.size, noise),
        )

    def drawn(self, rng: np.random.Generator, *, first: bool) -> _Model:
        """Return a model whose values are others within the fit's uncertainties; the first is the best."""
        if first:
            return self
        from dataclasses import replace

        fit = self.fits[0]
        jitter = rng.normal(size=self.offset_rad.size) * fit.offset_sigma_rad
        emittance = self.emittance_evs + rng.normal() * fit.emittance_sigma_evs
        intensity = self.intensity + rng.normal() * np.nan_to_num(fit.intensity_sigma)
        return replace(
            self,
            offset_rad=self.offset_rad + jitter,
            emittance_evs=max(emittance, 0.1 * self.emittance_evs),
            intensity=max(float(intensity), 0.0),
        )

    def profiles(
        self, k: int, phi_hw_rad: FloatArray, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return what the monitor would show in cycle `k` [points, n_slices], area 1 a radian."""
        points = self.program.at(self.ctime_ms)
        conditions = points.conditions(
            self.program.machine.ring,
            phi2_rad=phi_hw_rad - self.offset_rad[k],
            emittance_evs=self.emittance_evs,
            intensity=self.intensity,
        )
        effects = self.program.machine.intensity_effects
        matched = matched_profiles(conditions, self.n_slices, intensity_effects=effects)
        density = np.asarray(matched.line_density, dtype=np.float64)
        noisy = density + self.noise[:, None] * rng.normal(size=density.shape)
        return np.asarray(noisy, dtype=np.float32)


def _driven(
    trace: TraceReader,
    policy: Asked,
    model: _Model,
    phi_hw_rad: FloatArray,
    *,
    begin: int,
    shown: NDArray[np.bool_],
    rng: np.random.Generator,
) -> FloatArray:
    """Return mean |asymmetry| and bunching factor [2, cycles] in closed loop, guarded as the run was."""
    header = trace.header
    inference, guard = Inference(policy, header.machine), recorded_guard(trace, policy)
    start = trace.record(begin)
    own = policy.digest == header.policy_sha256
    if begin and own and start.policy is not None:
        inference.policy.memory = dict(start.policy.memory_in)
    result = np.empty((2, model.offset_rad.size))
    synchronous = start.reading.synchronous_phase_rad
    for k in range(result.shape[1]):
        profile = model.profiles(k, phi_hw_rad, rng)
        reading = Reading(
            cycle=k,
            stamp_ns=0,
            received_ns=0,
            profile=profile,
            setpoint_rad=phi_hw_rad,
            applied_rad=phi_hw_rad,
            readback_rad=phi_hw_rad,
            synchronous_phase_rad=synchronous,
            quality=np.zeros(phi_hw_rad.size, dtype=np.uint16),
        )
        result[:, k] = _seen(profile, shown[k])
        usable = guard.usable(reading)
        step = inference.step(inference.observe(reading, usable), phi_hw_rad, usable)
        decision = guard.decide(step.action[:, 0].astype(np.float64), reading, usable)
        if decision.write:
            phi_hw_rad = decision.phi_hw_rad
    return result
