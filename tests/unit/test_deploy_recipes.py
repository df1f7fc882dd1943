"""The recipes in deploy/ fit the project: what the image is built from, and what the service starts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTAINER = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
UNIT = (ROOT / "deploy" / "memrl-ctrl.service").read_text(encoding="utf-8")


def test_the_image_is_built_from_all_that_the_wheel_is_made_of_and_nothing_else() -> None:
    """Every package, the readme, the licence and the pins are copied, by name; no `COPY . .`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINER, flags=re.MULTILINE)
        for word in line.split()[:-1]
    }
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {package.partition("/")[0] for package in packages}
    needed |= {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    needed |= set(project["project"]["license-files"])
    assert copied == needed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_and_the_service_are_told_to_stop_as_the_run_wants_it() -> None:
    """SIGTERM, time for the HDF5 file, no user root, and a state that outlives the container."""
    assert "STOPSIGNAL SIGTERM" in CONTAINER
    assert re.search(r"^USER (?!root)\w+$", CONTAINER, flags=re.MULTILINE)
    assert "MEMRL_CTRL_STATE=/data/" in CONTAINER
    assert "VOLUME /data" in CONTAINER
    assert "KillSignal=SIGTERM" in UNIT
    assert "TimeoutStopSec=10min" in UNIT
    assert "Restart=no" in UNIT
    started = re.findall(r"^ExecStart=(.*)$", UNIT, flags=re.MULTILINE)
    assert started == ["/opt/memrl-ctrl/bin/memrl-ctrl deploy --config /etc/memrl-ctrl/deploy.yaml"]
    assert 'ENTRYPOINT ["/opt/memrl-ctrl/bin/memrl-ctrl"]' in CONTAINER
