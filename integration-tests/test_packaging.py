"""What the packages publish: built as a release would build them, then read back."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))


def read_toml(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


PROJECTS = {name: read_toml(f"packages/{name}/pyproject.toml")["project"] for name in PACKAGES}


def declared(name: str) -> list[Requirement]:
    """The requirements of a package, those of its extras included."""
    extras = PROJECTS[name].get("optional-dependencies", {}).values()
    lines = [*PROJECTS[name]["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in lines]


@dataclass
class Built:
    name: str
    wheel: dict[str, bytes]
    sdist: dict[str, bytes]

    @property
    def import_name(self) -> str:
        return self.name.replace("-", "_")

    def dist_info(self, file: str) -> bytes:
        return self.wheel[f"{self.import_name}-{PROJECTS[self.name]['version']}.dist-info/{file}"]

    @property
    def metadata(self) -> list[Message]:
        """The metadata of the wheel and of the sdist."""
        files = (self.dist_info("METADATA"), self.sdist["PKG-INFO"])
        return [message_from_bytes(file) for file in files]


@pytest.fixture(scope="module", params=PACKAGES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A package's sdist, and the wheel built from that sdist, as path to content."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, request.param],
        cwd=ROOT / "packages",
        check=True,
    )
    (wheel_path,) = out.glob("*.whl")
    (sdist_path,) = out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel_path) as archive:
        wheel = {name: archive.read(name) for name in archive.namelist()}
    sdist = {}
    with tarfile.open(sdist_path) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                sdist[member.name.partition("/")[2]] = file.read()
    return Built(request.param, wheel, sdist)


def test_packages_share_a_version_that_the_changelog_names() -> None:
    """All packages have one version number, and the changelog has an entry for it."""
    (version,) = {project["version"] for project in PROJECTS.values()}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE)


def test_every_package_is_known_to_the_workspace() -> None:
    """The Makefile and the root project name exactly the packages that exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^PACKAGES := (.*)$", makefile, re.MULTILINE)
    workspace = read_toml("pyproject.toml")["tool"]["poetry"]["dependencies"]
    assert sorted(line.split()) == PACKAGES
    assert sorted(set(workspace) - {"python"}) == PACKAGES


def test_makefile_has_the_packages_in_dependency_order() -> None:
    """A package comes after the siblings it depends on."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    order = re.findall(r"^PACKAGES := (.*)$", makefile, re.MULTILINE)[0].split()
    for name in PACKAGES:
        siblings = {requirement.name for requirement in declared(name)} & set(PACKAGES)
        assert all(order.index(sibling) < order.index(name) for sibling in siblings)


def test_siblings_satisfy_the_ranges_declared_for_them() -> None:
    """No package asks for a version of a sibling other than the one beside it."""
    for name in PACKAGES:
        for requirement in declared(name):
            if requirement.name in PROJECTS:
                assert requirement.specifier.contains(PROJECTS[requirement.name]["version"])


@pytest.mark.parametrize("name", PACKAGES)
def test_third_parties_have_a_lower_bound_only(name: str) -> None:
    """A dependency states the oldest release that works and never shuts out the next one."""
    for requirement in declared(name):
        if requirement.name not in PACKAGES:
            assert [clause.operator for clause in requirement.specifier] == [">="], requirement


def test_metadata_has_ranges_and_no_paths(built: Built) -> None:
    """What is published names its dependencies by version range, never by path or URL."""
    for metadata in built.metadata:
        published = metadata.get_all("Requires-Dist", [])
        requirements = [Requirement(line) for line in published]
        assert {r.name for r in requirements} == {r.name for r in declared(built.name)}
        assert all(r.specifier and r.url is None for r in requirements), published
        assert not re.search(r"file:|\.\./", str(metadata.items()))


def test_metadata_states_the_licence(built: Built) -> None:
    """The metadata carries the SPDX expression, and the wheel the text."""
    for metadata in built.metadata:
        assert metadata["License-Expression"] == "MIT"
    assert built.dist_info("licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_wheel_is_typed(built: Built) -> None:
    """Type checkers find the marker that tells them to trust the annotations."""
    assert f"{built.import_name}/py.typed" in built.wheel


def test_tests_are_in_the_sdist_only(built: Built) -> None:
    """The sdist can be tested; the wheel installs the package, and its plugin of pytest."""
    assert any(re.match(r"tests/test_\w+\.py$", path) for path in built.sdist)
    top_level = {path.partition("/")[0] for path in built.wheel}
    # pytest would import the whole package for a plugin inside it, in every run.
    plugins = PROJECTS[built.name].get("entry-points", {}).get("pytest11", {}).values()
    expected = {built.import_name, *(f"{module}.py" for module in plugins)}
    assert {path for path in top_level if not path.endswith(".dist-info")} == expected


def test_entry_points_are_published(built: Built) -> None:
    """The wheel announces every entry point that the project declares."""
    for group, entries in PROJECTS[built.name].get("entry-points", {}).items():
        published = built.dist_info("entry_points.txt").decode()
        assert f"[{group}]" in published
        for name, value in entries.items():
            assert f"{name}={value}" in published


def test_core_adds_the_aio_command() -> None:
    """The `flask` command line finds `flask aio` through core's entry point."""
    commands = PROJECTS["flask-aio-core"]["entry-points"]["flask.commands"]
    assert commands == {"aio": "flask_aio_core.cli:aio_group"}


def test_lock_names_no_source_but_the_packages() -> None:
    """The lock works for everyone: no private index, only our own paths inside the repository."""
    for package in read_toml("poetry.lock")["package"]:
        if source := package.get("source"):
            assert source == {"type": "directory", "url": f"packages/{package['name']}"}


def test_lock_satisfies_every_declared_range() -> None:
    """The lock is not stale: Poetry drops a sibling that is out of range without a word."""
    locked: dict[str, list[str]] = {}
    for package in read_toml("poetry.lock")["package"]:
        locked.setdefault(package["name"], []).append(package["version"])
    groups = read_toml("pyproject.toml")["dependency-groups"].values()
    wanted = [Requirement(line) for group in groups for line in group if isinstance(line, str)]
    for requirement in [*wanted, *(r for name in PACKAGES for r in declared(name))]:
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement} is not in poetry.lock: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in versions)
