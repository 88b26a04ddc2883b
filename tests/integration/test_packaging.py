"""The wheel and the sdist: what is in them, and what runs where nothing but the wheel is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email import message_from_string
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aggregator.__main__ import COMMANDS

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION: str = PROJECT["version"]
ROOMS = ("aggregator", "consumers", "producers")
STEM = f"kombu_aggregator-{VERSION}"


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def run(
    *command: str | Path, ok: bool = True, timeout: float = 120, **options: Any
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert not ok or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def build(source: Path, into: Path, *targets: str) -> None:
    """Build without an environment of its own: hatchling is installed, and no index is asked."""
    flags = [word for target in targets for word in ("-t", target)]
    run(sys.executable, "-m", "hatchling", "build", *flags, "-d", into, cwd=source)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "sdist", "wheel")
    return Built(folder / f"{STEM}-py3-none-any.whl", folder / f"{STEM}.tar.gz")


class Installed:
    """An environment with nothing in it but the wheel and what it asks for; and an empty folder."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self._bin = folder / "venv" / "bin"
        venv.create(folder / "venv", symlinks=True)
        self._install(wheel)

    def _install(self, wheel: Path) -> None:
        """Install by what made the environment of these tests: from its cache if that has all."""
        python = self._bin / "python"
        asked = ["--quiet", "--constraint", ROOT / "constraints.txt", wheel]
        # pip's configuration may name indexes; uv reads none of it and falls through to pip
        if uv := shutil.which("uv", path=str(Path(sys.executable).parent)):
            for offline in (["--offline"], []):
                if not run(uv, "pip", "install", "--python", python, *offline, *asked, ok=False).returncode:
                    return
        run(sys.executable, "-m", "pip", "--python", python, "install", *asked)

    def run(self, program: str, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, where nothing of the repository can be seen."""
        environment = {"PATH": f"{self._bin}:/usr/bin:/bin", "HOME": str(self.folder), "COLUMNS": "120"}
        return run(self._bin / program, *words, ok=ok, cwd=self.folder, env=environment)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), built.wheel)


def files_of_the_packages() -> set[str]:
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_packages_whole_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = [name for name in wheel.namelist() if "/licenses/" in name]
    assert names == files_of_the_packages()
    assert {f"{room}/py.typed" for room in ROOMS} <= names
    assert {Path(name).suffix for name in names} >= {".py", ".lua", ".html", ".js", ".css", ".svg"}
    assert licences == [f"{STEM}.dist-info/licenses/LICENSE"]


def test_the_sdist_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    top = {path.name for path in source.iterdir()}
    assert top == {*ROOMS, "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "constraints.txt",
                   "pyproject.toml", ".gitignore"}  # fmt: skip
    build(source, tmp_path / "again", "wheel")
    assert contents(tmp_path / "again" / built.wheel.name) == contents(built.wheel)


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def test_the_metadata_says_what_the_project_is(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        told = message_from_string(wheel.read(f"{STEM}.dist-info/METADATA").decode())
    assert told["Name"] == "kombu-aggregator"
    assert told["License-Expression"] == "MIT"
    assert told["Requires-Python"] == ">=3.11"
    assert told["Description-Content-Type"] == "text/markdown"
    assert set(told.get_all("Provides-Extra", [])) == PROJECT["optional-dependencies"].keys()
    versions = {line.rpartition(" ")[2] for line in told.get_all("Classifier", []) if " :: 3." in line}
    assert versions == {"3.11", "3.12", "3.13", "3.14"}


def test_it_is_the_wheel_that_runs(installed: Installed) -> None:
    found = installed.run("python", "-c", "import aggregator, consumers; print(aggregator.__file__)").stdout
    assert "site-packages" in found
    assert str(ROOT) not in found


@pytest.mark.parametrize(
    "words", [["aggregator"], ["python", "-m", "aggregator"], ["python", "-m", "aggregator.consume"]]
)
def test_the_version(installed: Installed, words: list[str]) -> None:
    assert installed.run(*words, "--version").stdout.startswith(f"kombu-aggregator {VERSION} (Python 3.")


def test_forty_messages_in_two_batches(installed: Installed) -> None:
    assert "At worst" in installed.run("python", "-m", "aggregator.consume", "--check").stdout
    assert list(installed.folder.iterdir()) == []
    installed.run("aggregator", "tasks", "--count", "40")
    done = installed.run("aggregator", "consume", "--until-empty", "--size", "20", "--log-format", "json")
    assert "40 written" in done.stdout
    assert done.stderr.count('"event": "batch"') == 2


def test_every_program_tells_what_it_does(installed: Installed) -> None:
    programs = [[script] for script in PROJECT["scripts"]]
    programs += [["aggregator", name] for name, command in COMMANDS.items() if not command.extra]
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda words: installed.run(*words, "--help"), programs))
    assert not [answer.args for answer in answers if "usage:" not in answer.stdout.lower()]


#: Extra → the flags that need it.
MISSING = {
    "elasticsearch": ["--sink", "elasticsearch+http://localhost/tasks"],
    "opensearch": ["--sink", "opensearch+http://localhost/tasks"],
    "webhook": ["--sink", "webhook+http://localhost/bulk"],
    "push": ["--sink", "fcm+https://fcm.googleapis.com?credentials=key.json"],
    "tarantool": ["--broker", "tarantool://localhost:3301", "--queue", "messages"],
    "redis": ["--seen", "redis://localhost/0"],
}


@pytest.mark.parametrize("extra", MISSING)
def test_what_is_not_installed_is_named(installed: Installed, extra: str) -> None:
    done = installed.run("aggregator-consume", "--check", *MISSING[extra], ok=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'kombu-aggregator[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("producers", ["tasks", "--broker", "amqp://localhost//"]),
        ("campaigns", ["campaigns", "serve"]),
        ("redis", ["jobs", "--results", "redis://localhost/0", "submit", "{}"]),
        ("gateways", ["gateways", "apns"]),
        ("tarantool", ["tarantool", "tarantool://localhost:3301"]),
    ],
)
def test_what_a_producer_lacks_is_named(installed: Installed, extra: str, words: list[str]) -> None:
    done = installed.run("aggregator", *words, ok=False)
    assert done.returncode
    assert f"pip install 'kombu-aggregator[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
