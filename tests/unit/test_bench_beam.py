"""`memrl-ctrl bench beam`: figures by hand, the same for all, cells kept, rivals that win named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl import controllers
from memrl_ctrl.beam import filling_to_emittance
from memrl_ctrl.bench.beam import command, tune
from memrl_ctrl.bench.beam.conditions import CONDITIONS, PROGRAMS, chosen, parts
from memrl_ctrl.bench.beam.figures import curves, figures
from memrl_ctrl.bench.beam.play import Forgetful, Played, check_player, play, with_correlated_noise
from memrl_ctrl.bench.beam.store import Store, key_of
from memrl_ctrl.bench.beam.summary import sentences, standings
from memrl_ctrl.cli import main
from memrl_ctrl.env.task import BeamPhase
from memrl_ctrl.errors import FileError, MismatchError, UnknownNameError, UsageError
from memrl_ctrl.program import load_program

PLAY: dict[str, Any] = {"episodes": 8, "seed": 3, "programs": PROGRAMS[:2]}


def played(error_deg: np.ndarray) -> Played:
    shots = len(error_deg) - 1
    return Played(
        error_deg=error_deg,
        applied_deg=np.diff(error_deg, axis=0),
        decide_s=np.full(shots, 1e-3),
        rows=np.full(shots, 10),
    )


def test_figures_are_those_counted_by_hand() -> None:
    """Two episodes that halve their error, one that never converges, one without a reference."""
    shots = np.arange(21.0)
    good = 64.0 * 0.5**shots
    error = np.stack([good, -good, np.full(21, 90.0), np.full(21, np.nan)], axis=1)
    found = figures(played(error))
    assert found["episodes"] == 3
    assert found["without_reference"] == 1
    assert found["median_deg_after_5"] == 2.0
    assert found["p95_deg_after_5"] == pytest.approx(2.0 + 0.9 * 88.0)
    assert found["share_within_2_deg_after_10"] == pytest.approx(2 / 3)
    assert found["shots_to_2_deg"] == found["shots_to_stay"] == 5.0
    assert found["share_never"] == pytest.approx(1 / 3)
    assert found["share_beyond_5_deg_after_10"] == pytest.approx(1 / 3)
    assert found["share_resting_beyond_5_deg"] == pytest.approx(1 / 3)
    assert found["late_worst_deg"] == found["largest_deg_after_10"] == 90.0
    assert found["worst_step_deg"] == 1.0
    assert found["decision_us_a_row"] == pytest.approx(100.0)
    assert found["median_deg_after_5_low"] <= 2.0 <= found["median_deg_after_5_high"]
    assert curves(played(error))["median_deg"][0] == 64.0


def test_where_no_phase_is_right_who_goes_on_turning_is_counted() -> None:
    """Of four points without a reference one turns late, one turned early, one turns a little, one rests."""
    error = np.concatenate([np.full((31, 4), np.nan), np.ones((31, 1))], axis=1)
    applied = np.zeros((30, 5))
    applied[22, 0], applied[19, 1], applied[29, 2] = -10.5, 90.0, 9.9
    applied[25, 4] = 45.0  # it has a reference: counted elsewhere
    found = figures(replace(played(error), applied_deg=applied))
    assert found["without_reference"] == 4
    assert found["share_turning_without_reference"] == 0.25
    assert "share_turning_without_reference" not in figures(played(error[:, 4:]))


def test_an_excursion_is_no_convergence() -> None:
    """A bunch that leaves 2 degrees again stays only from its return on."""
    error = np.array([[50.0], [1.0], [1.0], [9.0], [1.0], [1.0]])
    found = figures(played(error))
    assert found["shots_to_2_deg"] == 1.0
    assert found["shots_to_stay"] == 4.0
    assert found["share_resting_beyond_5_deg"] == 0.0


def test_nothing_with_a_reference_is_counted_not_guessed() -> None:
    """Where no episode has a reference there are counts and no errors."""
    found = figures(played(np.full((6, 3), np.nan)))
    assert found["without_reference"] == 3
    assert "median_deg_after_5" not in found
    assert curves(played(np.full((6, 3), np.nan)))["median_deg"] == []


@pytest.mark.parametrize("n_slices", [128, 129])
def test_correlated_noise_has_the_size_of_a_slice(n_slices: int) -> None:
    """2 % of the peak in each slice, neighbours alike and far ones not; a dead pick-up stays dead."""
    rng = np.random.default_rng(0)
    profile = np.zeros((4000, n_slices), dtype=np.float32)
    profile[:, 10] = 5.0
    profile[-1] = 0.0
    noise = with_correlated_noise(profile, 4.0, rng) - profile
    assert np.std(noise[:-1]) == pytest.approx(0.1, rel=0.03)
    assert not noise[-1].any()
    together = np.corrcoef(noise[:-1, 50], noise[:-1, 51])[0, 1]
    assert together == pytest.approx(np.exp(-1.0 / (4.0 * 4.0**2)), abs=0.01)
    assert abs(np.corrcoef(noise[:-1, 50], noise[:-1, 80])[0, 1]) < 0.06
    assert with_correlated_noise(profile, 0.0, rng) is profile


def test_every_contestant_meets_the_same() -> None:
    """The same seed brings the same bunches and offsets; another brings others."""
    still = CONDITIONS["still"]
    one = play(controllers.drive("hold"), still, folder=Path("unused"), **PLAY)
    other = play(controllers.drive("asymmetry-pi"), still, folder=Path("unused"), **PLAY)
    np.testing.assert_array_equal(one.error_deg[0], other.error_deg[0])
    np.testing.assert_allclose(one.error_deg, one.error_deg[:1].repeat(31, axis=0), atol=1e-4)
    assert np.abs(other.applied_deg).max() > 1.0
    again = play(controllers.drive("hold"), still, folder=Path("unused"), **{**PLAY, "seed": 4})
    assert np.abs(again.error_deg[0] - one.error_deg[0]).max() > 1.0


def test_model_errors_change_the_machine_and_not_what_is_believed(tmp_path: Path) -> None:
    """The true gamma_transition is 30 % higher; what a model is told is the nominal one."""
    for name in ("model-gamma-t", "random-model-gamma-t", "model-impedance"):
        condition = CONDITIONS[name]
        (part,) = parts(condition, 4, PROGRAMS[:1], tmp_path)
        task = BeamPhase(4, **part.options)
        try:
            task.start(0, None)
            true = task.backend.conditions()  # type: ignore[attr-defined]
        finally:
            task.close()
        believed = part.known(true)
        factor = 1.3 if "gamma" in name else 1.0
        np.testing.assert_allclose(true.gamma_transition / believed.gamma_transition, factor)
        assert believed.machine == part.nominal.ring
        differs = true.machine.impedance != believed.machine.impedance
        assert differs is ("impedance" in name)


def test_episodes_are_shared_by_the_programs(tmp_path: Path) -> None:
    """Seven episodes over three programs are 3, 2 and 2; faults go into a scenario."""
    found = parts(CONDITIONS["dead"], 7, PROGRAMS[:3], tmp_path)
    assert [part.episodes for part in found] == [3, 2, 2]
    assert all(part.options["backend"] == "twin" for part in found)


def test_the_bunch_of_a_cycle_fills_its_smallest_bucket(tmp_path: Path) -> None:
    """In `bunch` emittances are 0.5 to 0.9 of the cycle's smallest bucket, wherever the point is."""
    program = load_program(PROGRAMS[0])
    areas = filling_to_emittance(
        program.at(program.control_points_ms).conditions(program.machine.ring), 1.0
    )
    found = {}
    for name in ("bunch", "still"):
        (part,) = parts(CONDITIONS[name], 60, PROGRAMS[:1], tmp_path)
        task = BeamPhase(60, **part.options)
        try:
            task.start(0, None)
            found[name] = task.backend.conditions().emittance_evs  # type: ignore[attr-defined]
        finally:
            task.close()
    assert (found["bunch"] >= 0.499 * areas.min()).all()
    assert (found["bunch"] <= 0.901 * areas.min()).all()
    assert found["still"].max() > 2.0 * areas.min()
    assert "random-bunch" not in CONDITIONS


def test_limited_changes_and_a_field_that_hardly_rises(tmp_path: Path) -> None:
    """Each episode cuts what is asked for to its own limit; `flat` is where the field hardly rises."""
    (part,) = parts(CONDITIONS["random-flat"], 40, PROGRAMS, tmp_path)
    task = BeamPhase(40, **part.options)
    try:
        task.start(3, None)
        true = task.backend.conditions()  # type: ignore[attr-defined]
        applied = []
        for _ in range(3):
            before = task.phase_error_rad()
            task.play(np.full(40, 1.0))
            applied.append(
                np.degrees(np.abs(np.angle(np.exp(1j * (task.phase_error_rad() - before)))))
            )
    finally:
        task.close()
    first, *later = applied
    known = np.isfinite(first)
    assert known.sum() > 20
    assert ((first >= 7.9) & (first <= 40.1))[known].all()
    assert first[known].std() > 2.0
    for each in later:
        np.testing.assert_allclose(each[known], first[known], atol=0.1)
    assert ((true.emittance_evs >= 0.4) & (true.emittance_evs <= 1.2)).all()
    assert np.abs(true.b_dot_t_per_s).max() < 0.5
    assert "flat" not in CONDITIONS
    assert "random-limited" in CONDITIONS


def test_unknown_conditions_are_named() -> None:
    """A group stands for several, a name for one; another is refused with what there is."""
    assert all(each.is_random for each in chosen(["random"]))
    assert not {"tracked", "long"} & {each.name for each in chosen(["all"])}
    with pytest.raises(UnknownNameError, match=r"no condition 'stil'.*did you mean 'still'"):
        chosen(["stil"])


def test_a_cut_memory_is_reset_before_every_shot() -> None:
    """A decaying gain whose memory is cut never decays."""
    driven = controllers.drive("network-decaying")
    whole = play(driven, CONDITIONS["still"], folder=Path("unused"), **PLAY)
    cut = play(Forgetful(driven), CONDITIONS["still"], folder=Path("unused"), **PLAY)
    np.testing.assert_array_equal(whole.applied_deg[0], cut.applied_deg[0])
    assert np.median(np.abs(cut.applied_deg[-1])) > 3.0 * np.median(np.abs(whole.applied_deg[-1]))


def test_a_contestant_that_sees_more_is_refused() -> None:
    """A controller of 128 slices cannot be compared where 64 are measured."""
    with pytest.raises(MismatchError, match="hold sees 128 slices a turn, and 64 are measured"):
        check_player(controllers.drive("hold"), 64, "hold")


def test_rivals_that_win_are_named() -> None:
    """The best rival counts, figure by figure; who is beaten nowhere is said too."""
    names = ("median_deg_after_5", "p95_deg_after_5", "late_median_deg")

    def values(*numbers: float) -> dict[str, float]:
        return dict(zip(names, numbers, strict=True))

    found = {
        ("mine", "still"): values(0.3, 1.0, 0.2),
        ("a", "still"): values(0.4, 0.9, 0.3),
        ("b", "still"): values(0.5, 2.0, 0.4),
        ("mine", "drift"): values(0.3, 1.0, 0.2),
        ("a", "drift"): values(0.4, 1.1, 0.3),
    }
    standing = standings(found, ["mine"], ["a", "b"])
    assert sentences(standing) == ["mine is beaten in still: p95_deg_after_5 1 against 0.9 of a."]
    assert standings(found, ["mine"], []) == []
    better = [each for each in standing if each.condition == "drift"]
    assert sentences(better) == ["mine is beaten by no rival in any condition."]


def test_a_tie_is_no_win() -> None:
    """What differs in digits that are not shown beats nobody; what differs in those that are, does."""
    figure = "median_deg_after_5"
    for own, beaten in ((95.9004, False), (95.96, True)):
        found = {("mine", "flipped"): {figure: own}, ("hold", "flipped"): {figure: 95.9}}
        said = sentences(standings(found, ["mine"], ["hold"]))
        assert ("is beaten in flipped" in said[0]) is beaten


def test_cells_are_kept_and_played_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run plays nothing again; another number of episodes does."""
    count = []

    def counted(*args: Any, **options: Any) -> Played:
        count.append(args[1].name)
        return play(*args, **options)

    monkeypatch.setattr(command, "play", counted)
    out, json_path, markdown = tmp_path / "out", tmp_path / "b.json", tmp_path / "b.md"
    words = [
        *("bench", "beam", "--controllers", "hold", "--shots", "3"),
        *("--conditions", "still", "random-correlated"),
        *("--episodes", "6", "--out", str(out), "--json", str(json_path)),
        *("--markdown", str(markdown)),
    ]
    assert main(words) == 0
    assert count == ["still", "random-correlated"]
    assert main(words) == 0
    assert len(count) == 2
    words[words.index("6")] = "5"
    assert main(words) == 0
    assert len(count) == 4
    written = json.loads(json_path.read_text())
    assert written["figures"]["hold.still.median_deg_after_5"] > 1.0
    assert "5 episodes, seed" in " ".join(written["notes"])
    assert "### still" in markdown.read_text()
    assert (out / "programs.png").stat().st_size > 1000
    assert "picture:" in capsys.readouterr().out


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    """A file that is no cell is refused by its name instead of being played over."""
    store, condition = Store(tmp_path), CONDITIONS["still"]
    key = key_of("digest", condition, ablated=False, **PLAY)
    assert store.load("hold", "still", key) is None
    store.save("hold", "still", key, played(np.ones((4, 2))))
    kept = store.load("hold", "still", key)
    assert kept is not None
    np.testing.assert_array_equal(kept.error_deg, np.ones((4, 2)))
    (path,) = (tmp_path / "cells").iterdir()
    path.write_bytes(b"no cell")
    with pytest.raises(FileError, match=r"is damaged .*delete it to have it played again"):
        store.load("hold", "still", key)


def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody to compare, or a controller that does not exist."""
    assert main(["bench", "beam"]) != 0
    assert "nothing to compare: give --policy FILE" in capsys.readouterr().err
    assert main(["bench", "beam", "--controllers", "hodl"]) != 0
    assert "did you mean 'hold'" in " ".join(capsys.readouterr().err.split())


def test_tuning_keeps_the_best_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss found is that of the settings kept, never above that of the defaults, the same each time."""
    pytest.importorskip("optuna")
    monkeypatch.setattr(tune, "EPISODES", 4)
    monkeypatch.setattr(tune, "CONDITIONS", ("random-still",))
    found = tune.tune("asymmetry-pi", trials=3)
    assert found["loss"] <= found["loss_of_defaults"]
    assert found == tune.tune("asymmetry-pi", trials=3)
    with pytest.raises(UsageError, match="'hold' has no number that could be tuned"):
        tune.tune("hold")
