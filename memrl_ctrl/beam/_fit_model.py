"""The fit's forward model: measured profiles against those of the kernel, harmonic by harmonic.

A measured profile is amplitude times the matched line density, moved along the turn, seen through a
low-pass, plus a baseline and white noise. In Fourier space over the turn the move and the low-pass are
factors, the baseline is harmonic 0 alone, white noise stays white (the same variance in each
harmonic, whatever its distribution), and what lies above the harmonics of a bunch is noise and
nothing else: so the noise is measured without the model. The amplitude enters linearly and is
projected out (variable projection, Golub and Pereyra, SIAM J. Numer. Anal. 10, 413, 1973).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from memrl_ctrl.angles import wrap
from memrl_ctrl.beam import _prepare, _solver
from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.machine import Array, ComplexArray

MAX_HARMONICS = 64
"""Harmonics of the turn that are compared; a matched bunch has next to nothing above them."""
RENDER_SLICES = 256
"""Slices on which a model profile is computed, at least."""
MODEL_ERROR = 1.0e-3
"""Accuracy of the kernel, rms over the turn per peak: what a profile without noise is weighed with."""
PHI2, LOG_EMITTANCE, INTENSITY, TRIGGER = range(4)
"""Columns of the fit's parameters: rad, ln(eV s), protons / `PROTONS`, rad."""
PROTONS = 1.0e12


def compared_harmonics(n_slices: int) -> int:
    """Of n_slices / 2 harmonics, those that are compared: a third of the rest measures the noise."""
    return min(MAX_HARMONICS, n_slices // 3)


def spectrum(profiles: Array) -> ComplexArray:
    """Fourier coefficients 1, 2, .. below half the sampling of profiles [n, n_slices].

    c_k = mean over slices of p exp(-j k phi) with phi at the slices' centres.
    """
    n_slices = profiles.shape[1]
    coefficients = np.fft.rfft(profiles, axis=1)[:, 1 : (n_slices + 1) // 2] / n_slices
    order = np.arange(1, coefficients.shape[1] + 1)
    result: ComplexArray = coefficients * np.exp(-1j * np.pi * order / n_slices)
    return result


def noise_above(coefficients: ComplexArray, compared: int, n_slices: int) -> Array:
    """Rms noise of a slice [n] from the harmonics above those that are compared."""
    above = np.abs(coefficients[:, compared:]) ** 2
    result: Array = np.sqrt(n_slices * above.mean(axis=1))
    return result


class FitModel:
    """Profiles of some points as functions of phi2, emittance, intensity and trigger phase.

    Args:
        conditions: the points [n]; phi2, emittance and intensity do not enter.
        profiles: measured, [n, n_slices], finite and with a bunch.
        noise: rms noise of a slice [n], units of the profiles; NaN where it is to be measured.
        bandwidth_hz: upper limit of the monitor, one pole; infinity for none.
        low_cutoff_hz: lower limit of the monitor, one pole; 0 for none.
        threads: threads of the kernel.
    """

    def __init__(
        self,
        conditions: Conditions,
        profiles: Array,
        *,
        noise: Array,
        bandwidth_hz: float,
        low_cutoff_hz: float,
        threads: int,
    ) -> None:
        self.conditions = conditions.replace(phi2_rad=0.0, emittance_evs=1.0, intensity=PROTONS)
        self.threads = threads
        self._unit = _prepare.prepare(self.conditions, intensity_effects=True)
        kappa = self._unit.parameters[:, _solver.P_KAPPA] != 0.0
        self.depends_on_intensity = kappa | self._unit.wake.any(axis=(1, 2))
        """Whether a profile depends on the intensity [n]."""
        self.n_slices = profiles.shape[1]
        self.count = compared_harmonics(self.n_slices)
        measured = spectrum(profiles)
        self.order = np.arange(1, self.count + 1)
        frequency = self.order * conditions.rf_frequency_hz[:, None]
        poles = (1.0 + 1j * frequency / bandwidth_hz) * (1.0 - 1j * low_cutoff_hz / frequency)
        self.response: ComplexArray = np.asarray(1.0 / poles, dtype=np.complex128)
        """Of the monitor [n, harmonics]."""
        above = measured.shape[1] - self.count
        self.noise_known = np.isfinite(noise)
        """Whether the noise was given [n]."""
        found = noise_above(measured, self.count, self.n_slices)
        self.noise = np.where(self.noise_known, noise, found)
        """Rms noise of a slice [n], units of the profiles."""
        self.noise_dof = 2 * above
        """Degrees of freedom of a measured noise."""
        peak = np.ptp(profiles, axis=1)
        floor = MODEL_ERROR * peak / math.sqrt(4.0 * self.count)
        self.scale = np.hypot(self.noise / math.sqrt(2.0 * self.n_slices), floor)
        """Standard deviation of a real or imaginary part of a coefficient [n]."""
        self.data: ComplexArray = measured[:, : self.count] / self.scale[:, None]
        """Measured coefficients [n, harmonics], in units of their standard deviation."""

    def __len__(self) -> int:
        return len(self.conditions)

    def lines(
        self, rows: npt.NDArray[np.int64], parameters: Array, n_slices: int
    ) -> tuple[Array, Array]:
        """Matched line densities [b, n_slices] and captured fractions [b].

        Args:
            rows: points [b].
            parameters: [b, >= 3].
            n_slices: bins over a turn.
        """
        unit, c = self._unit, self.conditions
        values = unit.parameters[rows]
        phi2, intensity = parameters[:, PHI2], np.maximum(parameters[:, INTENSITY], 0.0)
        half = 0.5 * c.v2_v[rows]
        mirrored = unit.mirrored[rows]
        values[:, _solver.P_C2] = half * np.cos(phi2)
        values[:, _solver.P_S2] = np.where(mirrored, half, -half) * np.sin(phi2)
        values[:, _solver.P_TARGET] *= np.exp(parameters[:, LOG_EMITTANCE])
        values[:, _solver.P_KAPPA] *= intensity
        wake = unit.wake[rows] * intensity[:, None, None]
        prepared = _prepare.Prepared(values, wake, mirrored, unit.harmonics)
        solved = _prepare.solve(prepared, n_slices, threads=self.threads)
        captured = solved.results[:, _solver.R_CAPTURED]
        return solved.profiles.astype(np.float64), np.nan_to_num(captured)

    def spectra(self, rows: npt.NDArray[np.int64], parameters: Array) -> tuple[ComplexArray, Array]:
        """Coefficients of unmoved profiles as the monitor shows them, and captured fractions.

        [b, harmonics] and [b]; 0 where there is no profile.
        """
        folds = max(1, math.ceil(RENDER_SLICES / self.n_slices))
        fine = self.n_slices * folds if self.n_slices < RENDER_SLICES else RENDER_SLICES
        lines, captured = self.lines(rows, parameters, fine)
        result: ComplexArray = spectrum(lines)[:, : self.count]
        result[~np.isfinite(result).all(axis=1)] = 0.0
        return result * self.response[rows], captured

    def moved(self, coefficients: ComplexArray, trigger_rad: Array) -> ComplexArray:
        """Coefficients [b, harmonics] of profiles that are moved to larger phase."""
        result: ComplexArray = coefficients * np.exp(-1j * trigger_rad[:, None] * self.order)
        return result

    def amplitude(self, rows: npt.NDArray[np.int64], model: ComplexArray) -> Array:
        """Amplitude [b] that fits best, at least 0, for moved coefficients of the model."""
        data = self.data[rows]
        overlap = np.einsum("bk,bk->b", model.conj(), data).real
        power = np.einsum("bk,bk->b", model.conj(), model).real
        result: Array = np.maximum(overlap, 0.0) / np.maximum(power, 1.0e-300)
        return result

    def residuals(self, rows: npt.NDArray[np.int64], model: ComplexArray) -> Array:
        """Normalised residuals [b, 2 harmonics] for moved coefficients of the model."""
        rest = self.data[rows] - self.amplitude(rows, model)[:, None] * model
        return np.concatenate([rest.real, rest.imag], axis=1)

    def scan_triggers(
        self, row: int, coefficients: ComplexArray, *, known: bool
    ) -> tuple[Array, Array]:
        """For each unmoved model [b, harmonics]: chi2 [b] at the best trigger, and that trigger.

        Args:
            row: the point.
            coefficients: of the models.
            known: whether the trigger is 0.
        """
        power = np.einsum("bk,bk->b", coefficients.conj(), coefficients).real
        total = float(np.sum(np.abs(self.data[row]) ** 2))
        product = self.data[row] * coefficients.conj()
        if known:
            overlap, trigger = product.real.sum(axis=1), np.zeros(power.size)
        else:
            points = 8 * self.count
            padded = np.zeros((power.size, points // 2 + 1), dtype=np.complex128)
            padded[:, 1 : self.count + 1] = product
            correlation = np.fft.irfft(padded, points, axis=1) * (0.5 * points)
            best = correlation.argmax(axis=1)
            overlap = correlation[np.arange(power.size), best]
            trigger = wrap(best * (2.0 * np.pi / points))
        chi2 = total - np.maximum(overlap, 0.0) ** 2 / np.maximum(power, 1.0e-300)
        return chi2, trigger

    def drawn(
        self, rows: npt.NDArray[np.int64], parameters: Array, profiles: Array
    ) -> tuple[Array, Array]:
        """Model profiles as measured, [b, n_slices], and their areas in units of it times rad [b].

        Args:
            rows: points [b].
            parameters: [b, 4].
            profiles: as measured, [b, n_slices]; their mean is the model's.
        """
        spectra, _ = self.spectra(rows, parameters)
        moved = self.moved(spectra, parameters[:, TRIGGER])
        area = self.amplitude(rows, moved) * self.scale[rows]
        phase = (np.arange(self.n_slices) + 0.5) * (2.0 * np.pi / self.n_slices)
        shape = 2.0 * (moved @ np.exp(1j * self.order[:, None] * phase)).real
        return profiles.mean(axis=1, keepdims=True) + area[:, None] * shape, area
