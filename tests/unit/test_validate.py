"""The comparison with BLonD: distances, verdicts and what the command says, without BLonD."""

import json

import numpy as np
import pytest

pytest.importorskip("numba")

from memrl_backends.blond.validate import cli, report
from memrl_backends.blond.validate.comparison import (
    Comparison,
    Figure,
    distance,
    shot_noise,
)
from memrl_backends.blond.validate.conditions import draw
from memrl_backends.blond.validate.plan import Plan, Task
from memrl_ctrl.errors import MissingExtraError
from memrl_ctrl.program import load_machine

SLICES = 200
PHASE = (np.arange(SLICES) + 0.5) * 2.0 * np.pi / SLICES


def gauss(mean, sigma):
    away = np.mod(PHASE - mean + np.pi, 2.0 * np.pi) - np.pi
    density = np.exp(-0.5 * (away / sigma) ** 2)
    return density / (density.sum() * (PHASE[1] - PHASE[0]))


@pytest.mark.parametrize("mean", [3.0, 0.1])
def test_distance_finds_a_shift_and_a_stretch_wherever_the_bunch_lies(mean):
    """A bunch moved by 1 % of a turn and 5 % longer is that, also across the turn's end."""
    found = distance(
        np.array([gauss(mean + 0.02 * np.pi, 0.3), gauss(mean, 0.315)]), gauss(mean, 0.3)
    )
    np.testing.assert_allclose(found.mean_turns, [0.01, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.length_ratio, [1.0, 1.05], rtol=1e-4)
    assert (found.rms > 0.0).all()


def test_shot_noise_is_what_random_particles_have():
    """The rms of histograms of 20,000 particles about the density is the predicted one."""
    reference, rng = gauss(3.0, 0.5), np.random.default_rng(1)
    share = reference * (PHASE[1] - PHASE[0])
    counts = rng.multinomial(20_000, share / share.sum(), size=200)
    profiles = counts / (20_000 * (PHASE[1] - PHASE[0]))
    measured = np.sqrt(np.mean(distance(profiles, reference).rms ** 2))
    assert shot_noise(reference, 20_000) == pytest.approx(measured, rel=0.02)


def comparison(value, check="one"):
    return Comparison(
        check=check,
        what="B 1 T",
        condition={"b_field_t": 1.0},
        figures=(Figure(name="length, %", value=value, tolerance=1.0),),
        phase_rad=PHASE,
        kernel=gauss(3.0, 0.3),
        blond=gauss(3.0, 0.3),
    )


def test_a_row_fails_with_its_worst_and_a_missing_value_fails():
    """One condition outside fails the row and is named; so does a value that is no number."""
    good, bad, missing = comparison(0.5), comparison(1.5), comparison(np.nan)
    assert report.rows({"one": "title"}, [good])[0].passed
    row = report.rows({"one": "title"}, [good, bad])[0]
    assert (row.passed, row.worst, row.median) == (False, 1.5, 1.0)
    assert report.failures([good, bad]) == ["one, B 1 T: length, % 1.5 (allowed 1)"]
    assert not report.rows({"one": "title"}, [good, missing])[0].passed
    written = report.as_json(
        ring="psb",
        seed=1,
        quick=True,
        planned=3,
        seconds=1.0,
        table_rows=[row],
        done=[good, missing],
        notes=[],
    )
    assert json.loads(json.dumps(written, allow_nan=False))["complete"] is False
    assert written["passed"] is False


def test_conditions_follow_the_seed_and_hold_their_bunch():
    """Same seed, same conditions; another seed, others; all within the operating range."""
    machine = load_machine("psb")
    one, same, other = (draw(machine, 4, 9e12, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.conditions.b_field_t, same.conditions.b_field_t)
    assert (one.conditions.b_field_t != other.conditions.b_field_t).all()
    low, high = machine.operating_range.b_dot_t_per_s
    assert ((one.conditions.b_dot_t_per_s >= low) & (one.conditions.b_dot_t_per_s <= high)).all()
    assert one.drawn == 4 + one.overfull + one.unsolved


def stub(monkeypatch, runs):
    tasks = tuple(Task(check="one", seconds=1.0, run=run) for run in runs)
    work = Plan(titles={"one": "a title"}, tasks=tasks, notes=("left out: nothing.",))
    monkeypatch.setattr(cli, "blond", lambda: None)
    monkeypatch.setattr(cli, "plan", lambda *_: work)


def test_the_exit_code_tells_success(monkeypatch, capsys, tmp_path):
    """0 and the JSON says passed; 1 and the condition is named where one is outside."""
    path = tmp_path / "found.json"
    stub(monkeypatch, [lambda _: comparison(0.1)])
    assert cli.validate(json=path) == cli.PASSED
    assert json.loads(path.read_text())["passed"] is True
    assert "passed: all 1 comparisons" in capsys.readouterr().out
    stub(monkeypatch, [lambda _: comparison(0.1), lambda _: comparison(7.0)])
    assert cli.validate(json=path) == cli.FAILED
    said = capsys.readouterr().out
    assert "FAILED: 1 of 2" in said
    assert "length, % 7 (allowed 1)" in said


def test_interruption_keeps_what_was_done(monkeypatch, capsys, tmp_path):
    """Ctrl-C ends it with a sentence and code 130; the JSON holds the comparisons before it."""

    def interrupted(_):
        raise KeyboardInterrupt

    stub(monkeypatch, [lambda _: comparison(0.1), interrupted, lambda _: comparison(0.2)])
    path = tmp_path / "found.json"
    assert cli.validate(json=path) == cli.INTERRUPTED
    found = json.loads(path.read_text())
    assert (len(found["comparisons"]), found["complete"], found["passed"]) == (1, False, False)
    assert "interrupted after 1 of 3 comparisons" in capsys.readouterr().out


def test_without_blond_it_says_how_to_get_it(monkeypatch, capsys):
    """One sentence with the install line, exit code 4."""

    def missing():
        raise MissingExtraError("BLonD's matching and tracking", "BLonD", "blond")

    from memrl_ctrl.cli import main

    monkeypatch.setattr(cli, "blond", missing)
    assert main(["validate", "--quick"]) == 4
    assert 'needs BLonD: pip install "memrl-ctrl[blond]"' in capsys.readouterr().err


def tracked_comparison():
    """A comparison with everything that a picture shows."""
    return Comparison(
        **{
            **comparison(0.1).__dict__,
            "condition": {
                "b_field_t": 1.0,
                "b_dot_t_per_s": 1.0,
                "v1_v": 8e3,
                "v2_v": 4e3,
                "phi2_rad": 0.0,
                "emittance_evs": 1.0,
            },
            "turns": np.array([0.0, 10.0]),
            "length_ratio": np.array([1.0, 1.01]),
        }
    )


def test_pictures_are_drawn_of_each_check(tmp_path):
    """One PNG a check."""
    pytest.importorskip("matplotlib")
    from memrl_backends.blond.validate import pictures

    made = pictures.draw(tmp_path, {"one": "a title"}, [tracked_comparison()])
    assert [path.name for path in made] == ["validate-one.png", "validate-length.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


def test_the_legend_of_a_single_panel_does_not_lie_on_the_title(tmp_path, monkeypatch):
    """A long title over one panel stays readable."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from memrl_backends.blond.validate import pictures

    drawn, save = [], Figure.savefig

    def keep(figure, *args, **options):
        drawn.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    text = "BLonD's matching, induced voltage converged, 9e+12 protons"
    pictures.draw(tmp_path, {"one": text}, [tracked_comparison()])
    title = next(item for item in drawn[0].texts if item.get_text() == text)
    assert not title.get_window_extent().overlaps(drawn[0].legends[0].get_window_extent())
