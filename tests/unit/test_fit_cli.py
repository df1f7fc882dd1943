"""`memrl-ctrl fit` on traces and plain files."""

import dataclasses
import json

import cyclopts
import numpy as np
import pytest

from memrl_backends.blond import open_backend
from memrl_ctrl.backend import Quality
from memrl_ctrl.cli.fit import fit
from memrl_ctrl.errors import BeamError, FileError, MemrlError, TraceError, UsageError
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceHeader

POINTS = 3


def call(*tokens):
    """Run the command."""
    app = cyclopts.App(default_command=fit, result_action="return_value")
    return app([str(token) for token in tokens], exit_on_error=False, print_error=False)


def record(path, *, flagged=(), program=None):
    """Write a trace of two cycles at three control points, and the truth beside it."""
    backend = open_backend(
        program="psb-2gev", points=POINTS, seed=4, n_slices=256, noise=0.01, offset_deg=77.0
    )
    readings = [backend.start(), backend.play(backend.start().applied_rad)]
    machine = backend.description
    if program is not None:
        machine = dataclasses.replace(machine, program=program)
    header = TraceHeader.begin(mode="shadow", machine=machine, limits=machine.limits)
    truth = []
    with JournalWriter(path, header) as journal:
        for reading in readings:
            quality = reading.quality.copy()
            quality[list(flagged)] = Quality.SATURATED
            reading = dataclasses.replace(reading, quality=quality)  # noqa: PLW2901
            journal.append(
                CycleRecord(
                    reading=reading,
                    mode="shadow",
                    policy=None,
                    verdicts=np.zeros((POINTS, 0), dtype=np.uint8),
                    proposed_rad=reading.applied_rad,
                )
            )
            offset = reading.truth.offset_rad.tolist()
            truth.append(json.dumps({"cycle": reading.cycle, "offset_rad": offset}))
    path.with_name("truth.jsonl").write_text("\n".join(truth) + "\n")
    return readings


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A trace, its truth in the same folder."""
    path = tmp_path_factory.mktemp("run") / "trace.journal"
    record(path)
    return path


def test_a_trace_is_fitted_and_compared_with_its_truth(trace, tmp_path, capsys):
    """Table, JSON and picture hold offset, uncertainty and the difference from the truth."""
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "fit.json", tmp_path / "fit.png"
    truth = trace.with_name("truth.jsonl")
    call(trace, "--truth", truth, "--json", out, "--plot", picture)
    words = capsys.readouterr().out
    assert "slice 0 is RF phase 0" in words
    assert "true offset" in words
    assert "together: offset" in words
    result = json.loads(out.read_text())
    assert result["program"] == "psb-2gev"
    assert len(result["points"]) == POINTS
    together = result["together"]
    error = np.degrees(together["offset_rad"]) - 77.0
    assert abs(error) < 4.0 * np.degrees(together["offset_sigma_rad"])
    for row in result["points"]:
        gap = np.degrees(row["offset_rad"]) - 77.0
        assert abs((gap + 180.0) % 360.0 - 180.0) < 5.0 * np.degrees(row["phi2_sigma_rad"])
        assert row["verdict"] in ("good", "ambiguous", "weak")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_one_point_of_one_cycle(trace, capsys):
    """--point and --cycle choose; a single point has no common fit."""
    call(trace, "--point", "1", "--cycle", "1")
    words = capsys.readouterr().out
    assert "cycle 1," in words
    assert "together" not in words
    assert words.count("good") == 1


def test_flagged_profiles_are_left_out_and_named(tmp_path, capsys):
    """A saturated profile is skipped, and the output says which and why."""
    path = tmp_path / "trace.journal"
    record(path, flagged=[1])
    call(path)
    words = capsys.readouterr().out
    assert "skipped: point 1, ctime 545.0 ms: flagged saturated" in words
    assert "together: offset" in words
    record(tmp_path / "all.journal", flagged=[0, 1, 2])
    with pytest.raises(FileError, match="every profile is flagged"):
        call(tmp_path / "all.journal")


@pytest.fixture
def files(tmp_path):
    """Plain files of the same profiles: .npy, and .csv with a head."""
    backend = open_backend(
        program="psb-2gev", points=2, seed=2, n_slices=128, noise=0.01, offset_deg=20.0
    )
    reading = backend.start()
    ctime = backend.description.ctime_ms
    knob = np.degrees(reading.applied_rad)
    np.save(tmp_path / "two.npy", reading.profile)
    np.save(tmp_path / "one.npy", reading.profile[0])
    head = f"# ctime_ms: {ctime[0]}, {ctime[1]}\n# phi_hw_deg: {knob[0]}, {knob[1]}\n# by hand\n"
    lines = "\n".join(",".join(str(v) for v in row) for row in reading.profile.T)
    (tmp_path / "two.csv").write_text(head + lines + "\n")
    return tmp_path, ctime


def test_plain_files_are_fitted(files, tmp_path, capsys):
    """A CSV with its ctimes in the head, and an array with --ctime, give the same first point."""
    folder, ctime = files
    call(folder / "two.csv", "--program", "psb-2gev", "--json", tmp_path / "csv.json")
    call(
        folder / "one.npy",
        *("--program", "psb-2gev", "--ctime", ctime[0], "--json", tmp_path / "npy.json"),
    )
    csv, npy = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("csv", "npy"))
    assert len(csv["points"]) == 2
    assert csv["points"][0]["phi2_rad"] == pytest.approx(npy["points"][0]["phi2_rad"], abs=1e-3)
    assert abs(np.degrees(csv["together"]["offset_rad"]) - 20.0) < 4.0 * np.degrees(
        csv["together"]["offset_sigma_rad"]
    )
    capsys.readouterr()
    call(folder / "one.npy", "--program", "psb-2gev", "--point", "0")
    assert "point" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["two.csv"], UsageError, "give --program"),
        (["two.csv", "--program", "nowhere"], UsageError, "no program 'nowhere'"),
        (["two.npy", "--program", "psb-2gev"], FileError, "does not say where in the cycle"),
        (["one.npy", "--program", "psb-2gev", "--ctime", "9000"], FileError, "9000 ms is outside"),
        (["one.npy", "--program", "psb-2gev", "--point", "99"], UsageError, "no control point 99"),
        (
            ["one.npy", "--program", "psb-2gev", "--point", "x"],
            UsageError,
            "number from 0, or 'all'",
        ),
        (["gone.npy", "--program", "psb-2gev"], FileError, "cannot be read"),
        (["gone.csv", "--program", "psb-2gev"], FileError, "cannot be read"),
        (["bad.csv", "--program", "psb-2gev"], FileError, "bad.csv, line 2: expected numbers"),
        (["ragged.csv", "--program", "psb-2gev"], FileError, "line 2: 1 values"),
        (["empty.csv", "--program", "psb-2gev"], FileError, "holds no numbers"),
        (["flat.csv", "--program", "psb-2gev", "--point", "0"], FileError, "flat"),
        (["short.csv", "--program", "psb-2gev", "--point", "0"], UsageError, "16 slices at least"),
        (["text.npy", "--program", "psb-2gev"], FileError, "no array of numbers"),
        (
            ["two.csv", "--program", "psb-2gev", "--cycle", "1"],
            UsageError,
            r"--cycle does not belong to .*no cycles",
        ),
        (
            ["two.csv", "--program", "psb-2gev", "--truth", "t"],
            UsageError,
            "--truth does not belong",
        ),
        (
            ["two.csv", "--program", "psb-2gev", "--monitor", "best"],
            UsageError,
            "no monitor 'best'",
        ),
        (["gone.h5"], TraceError, "does not exist"),
    ],
)
def test_wrong_files_and_options_are_refused_in_a_sentence(files, arguments, error, words):
    """Each mistake has its own sentence, which names the file and what is allowed."""
    folder, _ = files
    (folder / "bad.csv").write_text("1.0\nx\n")
    (folder / "ragged.csv").write_text("1.0,2.0\n3.0\n")
    (folder / "empty.csv").write_text("# nothing\n")
    (folder / "flat.csv").write_text("1.0\n" * 64)
    (folder / "short.csv").write_text("1.0\n" * 5)
    np.save(folder / "text.npy", np.array(["a", "b"]))
    with pytest.raises(error, match=words) as caught:
        call(folder / arguments[0], *arguments[1:])
    assert isinstance(caught.value, MemrlError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--cycle", "99"], TraceError, "has no cycle 99; it holds 1 to"),
        (["--point", "7"], UsageError, "no control point 7 in .*there is: 0 to 2"),
        (["--ctime", "300"], UsageError, r"--ctime does not belong .*holds them"),
        (["--truth", "nowhere.jsonl"], FileError, "cannot be read as a truth log"),
        (["--program", "nowhere"], UsageError, "no program 'nowhere'"),
    ],
)
def test_wrong_choices_from_a_trace_are_refused(trace, arguments, error, words):
    """The sentence says what there is."""
    with pytest.raises(error, match=words):
        call(trace, *arguments)


def test_a_trace_of_an_unknown_program_asks_for_it(tmp_path):
    """The trace's program is not installed here: the sentence says to give one."""
    record(tmp_path / "trace.journal", program="of another place")
    with pytest.raises(TraceError, match=r"'of another place' cannot be loaded .*--program"):
        call(tmp_path / "trace.journal")
    write_sample_journal(tmp_path / "made-up.journal")
    with pytest.raises((TraceError, BeamError)):
        call(tmp_path / "made-up.journal")
