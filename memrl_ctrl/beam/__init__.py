"""The model of the bunch: matched profiles of a double-harmonic ring, in microseconds each.

`matched_profiles` gives the stationary line density of a bunch in its own wake and space charge,
`reference_optimum` the phase between the harmonics at which it is symmetric, `sample_particles`
macroparticles of the same distribution. The physics is explained in `docs/physics.md`.
"""

from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.cycle_fit import CycleFit, fit_cycle
from memrl_ctrl.beam.fit import ProfileFit, fit_profile, suggest_delta_rad, suggested_sigma_rad
from memrl_ctrl.beam.machine import (
    ConstantZn,
    Impedance,
    ImpedanceTable,
    Machine,
    ResistiveWall,
    Resonator,
)
from memrl_ctrl.beam.minimum_phase import minimum_phase_rad, phase_distance_deg
from memrl_ctrl.beam.optimum import CRITERIA, Criterion, least_skewed, reference_optimum
from memrl_ctrl.beam.profiles import (
    MatchedProfiles,
    bucket_area_evs,
    filling_to_emittance,
    matched_profiles,
)
from memrl_ctrl.beam.sampling import sample_particles

__all__ = [
    "CRITERIA",
    "Conditions",
    "ConstantZn",
    "Criterion",
    "CycleFit",
    "Impedance",
    "ImpedanceTable",
    "Machine",
    "MatchedProfiles",
    "ProfileFit",
    "ResistiveWall",
    "Resonator",
    "bucket_area_evs",
    "filling_to_emittance",
    "fit_cycle",
    "fit_profile",
    "least_skewed",
    "matched_profiles",
    "minimum_phase_rad",
    "phase_distance_deg",
    "reference_optimum",
    "sample_particles",
    "suggest_delta_rad",
    "suggested_sigma_rad",
]
