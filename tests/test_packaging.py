"""The wheel, installed elsewhere, beside a research script's own `models` and `data_adapters` folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout and nothing stale of it gets in."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("forgetmi", "models", "data_adapters"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    _run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, copy)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    _run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def _run(*words, **options):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_forgetmi_is_at_the_top(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"forgetmi"}
    assert "forgetmi/models/classifier.py" in names
    assert "forgetmi/data_adapters/manifest.py" in names


def test_what_is_no_code_is_in_too(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    wanted = [
        "forgetmi/py.typed",
        "forgetmi/attacks/extraction/templates.json",
        *_data("cli/templates"),
        *_data("audit/templates"),
        *_data("audit/schemas"),
    ]
    assert [name for name in wanted if name not in names] == []
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def _data(folder):
    found = [str(path.relative_to(ROOT)) for path in (ROOT / "forgetmi" / folder).rglob("*") if path.is_file()]
    assert found
    return found


def test_it_imports_beside_folders_of_the_same_names(installed, tmp_path):
    for name in ("models", "data_adapters"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the decoy was imported')\n")
    script = tmp_path / "research.py"
    script.write_text(
        "import forgetmi, forgetmi.models, forgetmi.data_adapters\n"
        "from forgetmi.models.classifier import build_model\n"
        "from forgetmi.data_adapters import ADAPTERS\n"
        "from importlib.resources import files\n"
        "assert ADAPTERS['manifest'] and files('forgetmi.cli').joinpath('templates/demo.yaml').is_file()\n"
        "print(forgetmi.__file__)\n"
    )
    # -I: no user site and no PYTHONPATH; the script's folder, decoys in it, comes first all the same.
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(installed)!r}]; exec(open({str(script)!r}).read())"
    where = _run("-I", "-c", code, cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed)


def test_the_editable_install_says_which_version_it_is():
    import forgetmi

    assert forgetmi.__version__.count(".") == 2


def test_constraints_hold_versions_only_and_are_those_installed():
    from importlib.metadata import PackageNotFoundError, version

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "/" not in line and "@" not in line for line in lines)
    assert not [line for line in lines if line.startswith(("nvidia", "cuda", "triton", "forgetmi"))]
    differ = []
    for name, wanted in (line.split("==") for line in lines):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # of another platform
        if found.split("+")[0] != wanted:
            differ.append(f"{name}: {found} is installed, constraints.txt has {wanted}")
    if differ:
        pytest.skip("; ".join(differ))


def test_every_dependency_has_a_tested_version():
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[<>=\[ ]", wanted)[0].lower().replace("_", "-") for group in groups for wanted in group}
    tested = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert sorted(names - tested) == []
