"""Conditions that a seed draws from a machine's operating range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memrl_ctrl.beam import Conditions, bucket_area_evs, matched_profiles
from memrl_ctrl.errors import BeamError
from memrl_ctrl.program import MachineFile

FILLING = (0.2, 0.9)
"""Part of the bare bucket (without intensity effects, at the condition's phi_2) that is filled."""
_DRAWS = 40


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Conditions, and how many were drawn to find them."""

    conditions: Conditions
    """Where the bunch fits into its bucket with intensity effects."""
    drawn: int
    """Conditions drawn in all."""
    overfull: int
    """Left out: with intensity effects the bucket is smaller than the emittance."""
    unsolved: int
    """Left out: no bucket, or the kernel found no fixed point (and says so)."""

    @property
    def sentence(self) -> str:
        """What was left out, in words."""
        return (
            f"{len(self.conditions)} of {self.drawn} drawn; left out {self.overfull} that the bucket "
            f"does not hold at their intensity and {self.unsolved} without bucket or fixed point"
        )


def draw(machine: MachineFile, count: int, intensity: float, rng: np.random.Generator) -> Drawn:
    """Draw conditions uniformly from the operating range, phi_2 from the whole circle.

    Args:
        machine: the machine; its operating range gives field, Bdot, V1 and V2/V1.
        count: conditions wanted.
        intensity: protons in the ring.
        rng: source of randomness.

    Raises:
        BeamError: bunches that fit are too rare in this operating range.
    """
    span, drawn, overfull, unsolved = machine.operating_range, 0, 0, 0
    beam_ms = (machine.injection_ctime_ms, machine.extraction_ctime_ms)
    found: list[Conditions] = []
    for _ in range(_DRAWS * count):
        v1 = rng.uniform(*span.v1_v)
        point = Conditions(
            b_field_t=rng.uniform(*span.b_field_t),
            b_dot_t_per_s=rng.uniform(*span.b_dot_t_per_s),
            v1_v=v1,
            v2_v=v1 * rng.uniform(*span.v2_over_v1),
            phi2_rad=rng.uniform(-np.pi, np.pi),
            emittance_evs=1.0,
            intensity=intensity,
            gamma_transition=machine.gamma_transition.at(rng.uniform(*beam_ms)),
            machine=machine.ring,
        )
        filling = rng.uniform(*FILLING)
        drawn += 1
        area = bucket_area_evs(point)
        if np.isnan(area[0]):
            unsolved += 1
            continue
        point = point.replace(emittance_evs=filling * area)
        kernel = matched_profiles(point, 16)
        if not kernel.converged[0]:
            unsolved += 1
        elif kernel.captured_fraction[0] < 1.0:
            overfull += 1
        else:
            found.append(point)
            if len(found) == count:
                break
    else:
        raise BeamError(
            f"only {len(found)} of {drawn} conditions of machine {machine.name}'s operating range "
            f"hold a bunch of {intensity:g} protons; {count} are needed"
        )
    names = (
        "b_field_t",
        "b_dot_t_per_s",
        "v1_v",
        "v2_v",
        "phi2_rad",
        "emittance_evs",
        "intensity",
        "gamma_transition",
    )
    arrays = {name: np.concatenate([getattr(p, name) for p in found]) for name in names}
    conditions = Conditions(**arrays, machine=machine.ring)
    return Drawn(conditions=conditions, drawn=drawn, overfull=overfull, unsolved=unsolved)


def as_numbers(point: Conditions) -> dict[str, float]:
    """One condition as names with units and numbers, for JSON."""
    return {
        "b_field_t": float(point.b_field_t[0]),
        "b_dot_t_per_s": float(point.b_dot_t_per_s[0]),
        "v1_v": float(point.v1_v[0]),
        "v2_v": float(point.v2_v[0]),
        "phi2_rad": float(point.phi2_rad[0]),
        "emittance_evs": float(point.emittance_evs[0]),
        "intensity": float(point.intensity[0]),
        "gamma_transition": float(point.gamma_transition[0]),
    }


def in_words(point: Conditions) -> str:
    """One condition in a short line."""
    return (
        f"B {point.b_field_t[0]:.3f} T, Bdot {point.b_dot_t_per_s[0]:.2f} T/s, "
        f"V1 {point.v1_v[0] / 1e3:.1f} kV, V2/V1 {point.v2_v[0] / point.v1_v[0]:.2f}, "
        f"phi_2 {np.degrees(point.phi2_rad[0]):.0f} deg, {point.emittance_evs[0]:.2f} eV s, "
        f"{point.intensity[0]:.2g} protons"
    )
