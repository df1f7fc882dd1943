"""Optima of earlier published work, reproduced with its settings."""

import numpy as np
import pytest

pytest.importorskip("numba")

from memrl_ctrl.beam import Conditions, reference_optimum
from memrl_ctrl.program import load_program
from memrl_ctrl.program.optimum import cycle_optimum

TOLERANCE_DEG = 0.5


@pytest.mark.parametrize(
    ("published", "published_deg"),
    [
        ((20_000.0, 0.625, 1990.0), -20.12),
        ((20_000.0, 0.75, 2724.0), -31.60),
        ((20_000.0, 0.875, 4784.0), -67.10),
        ((10_000.0, 0.625, 2724.0), -59.79),
        ((14_000.0, 0.625, 4784.0), -81.90),
        ((12_000.0, 0.875, 2724.0), -62.71),
    ],
)
@pytest.mark.parametrize(("field_t", "emittance_evs"), [(0.3, 0.2), (0.8, 1.5)])
def test_equal_wells_without_intensity_effects_are_the_published_optima(
    published, published_deg, field_t, emittance_evs
):
    """On the machine of psb-seed-2gev, equal wells at the published total voltage, ratio V2/V1 and
    energy gain a turn (tables that store phi_2 + pi): within 0.5 degrees, whatever field and bunch."""
    total_v, ratio, gain_ev = published
    machine = load_program("psb-seed-2gev").machine
    ring = machine.ring
    assert not machine.intensity_effects
    assert ring.gamma_transition == 4.4
    v1 = total_v / (1.0 + ratio)
    point = Conditions(
        b_field_t=field_t,
        b_dot_t_per_s=gain_ev / (ring.circumference_m * ring.bending_radius_m),
        v1_v=v1,
        v2_v=ratio * v1,
        phi2_rad=0.0,
        emittance_evs=emittance_evs,
        intensity=9e12,
        machine=ring,
    )
    found = np.degrees(reference_optimum(point, "equal-wells")[0])
    assert found == pytest.approx(published_deg, abs=TOLERANCE_DEG)


def test_the_seed_program_has_these_optima_along_its_cycle():
    """`cycle_optimum` of psb-seed-2gev at any intensity gives the zero-intensity equal wells."""
    program = load_program("psb-seed-2gev")
    empty = cycle_optimum(program, intensity=0.0, criterion="equal-wells", points=40)
    full = cycle_optimum(program, intensity=9e12, criterion="equal-wells", points=40)
    np.testing.assert_array_equal(full.phi2_rad, empty.phi2_rad)
    assert np.count_nonzero(empty.found) >= 20
    # Lengthening: a larger share of energy gain in V1 moves the optimum below zero.
    found = np.degrees(empty.phi2_rad[empty.found])
    assert found.max() < 0.1
    assert found.min() < -30.0
