"""One distribution brings everything, pins what CI tests, and asks for nothing heavy beyond what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# A new direct dependency is a decision: it is taken here as well, with the reason in the commit.
DEPENDENCIES = {
    "accelerate", "click", "diffusers", "numpy", "pillow", "platformdirs", "pluggy", "pydantic", "pyyaml", "rich",
    "safetensors", "tensorboard", "torch", "transformers",
}  # fmt: skip
TESTED_EXTRAS = ("dev", "bnb", "optim")
NEVER_INSTALLED = ("torchvision", "torchaudio")
MAX_WHEEL_BYTES = 48 << 20


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in requirements}


def test_the_direct_dependencies_are_those_decided_on() -> None:
    assert names(PROJECT["project"]["dependencies"]) == DEPENDENCIES


def test_everything_that_ci_installs_is_pinned() -> None:
    extras = [line for extra in TESTED_EXTRAS for line in PROJECT["project"]["optional-dependencies"][extra]]
    assert names(PROJECT["project"]["dependencies"]) | names(extras) <= set(pins())


def test_pins_are_exact_public_versions() -> None:
    assert [pin for pin in pins().values() if not re.fullmatch(r"==[\w.]+", pin)] == []


def test_pins_lie_within_what_the_project_asks_for() -> None:
    requirements = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    found = pins()
    outside = [r.name for r in requirements if not r.specifier.contains(found[canonicalize_name(r.name)][2:])]
    assert outside == []


def test_what_is_installed_is_what_is_pinned() -> None:
    installed = {canonicalize_name(dist.name): dist.version.split("+")[0] for dist in distributions()}
    pinned = {name: pin.removeprefix("==") for name, pin in pins().items()}
    assert {name: found for name, found in installed.items() if name in pinned and found != pinned[name]} == {}


@pytest.mark.parametrize("name", NEVER_INSTALLED)
def test_no_companion_of_torch_is_installed_or_asked_for(name: str) -> None:
    assert find_spec(name) is None
    extras = PROJECT["project"]["optional-dependencies"].values()
    assert name not in names([*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)])
    assert name not in pins()


def test_every_plugin_folder_is_packaged_and_announced() -> None:
    packages = {path.name for path in ROOT.glob("plugins/*/sdtune_*") if path.is_dir()}
    announced = {target.split(":")[0] for target in PROJECT["project"]["entry-points"]["sdtune"].values()}
    wheel = {Path(path).name for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert packages == announced == wheel - {"sdtune"}


def test_plugins_have_no_project_file_of_their_own() -> None:
    assert list(ROOT.glob("plugins/*/pyproject.toml")) == []


def test_the_version_is_told_once() -> None:
    try:
        assert version("sdtune") == PROJECT["project"]["version"]
    except PackageNotFoundError:
        pytest.skip("runs from the source tree")


def run(*command: str | Path, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, env=env, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(project: Path, folder: Path) -> Path:
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
    run(sys.executable, "-m", "pip", "wheel", *options, folder, project)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_wheel_holds_exactly_the_files_of_its_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = run(
        "git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", "sdtune", "plugins/*/sdtune_*"
    ).splitlines()
    assert packed == {re.sub(r"^plugins/[^/]+/", "", name) for name in tracked}


@pytest.mark.slow
def test_the_wheel_stays_light(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


@pytest.mark.slow
def test_an_installed_wheel_finds_its_plugins_outside_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    code = "import sdtune, sdtune_lora; print(sdtune.__file__, sdtune_lora.__file__)"
    origins = run(sys.executable, "-P", "-c", code, PYTHONPATH=str(site)).split()
    assert [Path(origin).parents[1] for origin in origins] == [site, site]
    assert '"lora"' in run(sys.executable, "-P", "-m", "sdtune", "methods", "--json", PYTHONPATH=str(site))


@pytest.mark.slow
def test_a_bundled_plugin_works_as_a_distribution_of_its_own(tmp_path: Path) -> None:
    project = tmp_path / "project"
    package = ROOT / "plugins/lora/sdtune_lora"
    (project / package.name).mkdir(parents=True)
    for path in package.glob("*.py"):
        (project / package.name / path.name).write_bytes(path.read_bytes())
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "alone"\nversion = "1"\n[project.entry-points.sdtune]\nlora = "sdtune_lora"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["sdtune_lora"]\n'
    )
    with zipfile.ZipFile(build_wheel(project, tmp_path)) as archive:
        assert "sdtune_lora/__init__.py" in archive.namelist()
