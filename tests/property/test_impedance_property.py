"""Impedance tables under random damage."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.beam import Resonator
from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program import MachineWarning, available_machines, load_machine

SHIPPED = available_machines()["psb"].read_text()
ITEM = (
    "    - table: {file: cell.txt, frequency_column: f, magnitude_column: z, magnitude_unit: ohm, "
    "phase_column: p, phase_unit: deg, count: 13}\n"
)
MACHINE = SHIPPED.replace("  impedance:\n", "  impedance:\n" + ITEM, 1)
FREQUENCY = np.geomspace(1e5, 1e8, 20)
Z = Resonator(50.0, 3e6, 2.0).impedance_ohm(FREQUENCY)
TABLE = "f\tz\tp\tq\n" + "".join(
    f"{f:.6g}\t{abs(z):.6g}\t{np.degrees(np.angle(z)):.6g}\t1\n"
    for f, z in zip(FREQUENCY, Z, strict=True)
)


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_table_loads_or_is_refused_in_one_sentence(data: st.DataObject) -> None:
    """Whatever bytes are put into a table, it gives finite impedances or one sentence with its name."""
    raw = bytearray(TABLE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        new = data.draw(
            st.sampled_from([b"", b"\t", b"\n", b"-", b"e9", b"nan", b"0", b"\xff", b",", b"#"])
        )
        raw[at : at + data.draw(st.integers(0, 12))] = new
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", MachineWarning)
        (Path(name) / "cell.txt").write_bytes(bytes(raw))
        (Path(name) / "ring.yaml").write_text(MACHINE)
        sentence = "cell.txt"
        try:
            machine = load_machine(Path(name) / "ring.yaml")
            z = machine.ring.impedance_ohm(np.geomspace(1e5, 1e8, 50), 1e6)
            assert np.isfinite(z).all()
        except ProgramError as error:
            sentence = str(error)
        assert "\n" not in sentence
        assert "cell.txt" in sentence


@given(
    separator=st.sampled_from(["\t", ",", ";", " "]),
    count=st.floats(0.1, 100.0),
    values=st.lists(
        st.tuples(st.floats(1e-3, 1e6), st.floats(-180.0, 180.0)), min_size=2, max_size=20
    ),
)
def test_a_table_of_any_form_is_the_same_impedance(
    separator: str, count: float, values: list[tuple[float, float]]
) -> None:
    """Magnitude and phase come back exactly at the table's own rows, times the count."""
    frequency = np.geomspace(1e5, 1e7, len(values))
    rows = [("f", "z", "p")]
    rows += [
        (repr(float(f)), repr(z), repr(p)) for f, (z, p) in zip(frequency, values, strict=True)
    ]
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", MachineWarning)
        (Path(name) / "cell.txt").write_text("\n".join(map(separator.join, rows)) + "\n")
        text = MACHINE.replace("phase_unit: deg, count: 13", f"phase_unit: deg, count: {count!r}")
        (Path(name) / "ring.yaml").write_text(text)
        item = load_machine(Path(name) / "ring.yaml").ring.impedance[0]
    magnitude, phase = np.array(values).T
    expected = count * magnitude * np.exp(1j * np.radians(phase))
    np.testing.assert_allclose(item.table_at(frequency), expected, rtol=1e-12)  # type: ignore[union-attr]
