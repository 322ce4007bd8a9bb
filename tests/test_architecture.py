"""The house: what may import what, how long a module may be, what importing costs, where randomness is touched."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "forgetmi": ROOT / "forgetmi",
    "forgetmi.models": ROOT / "models",
    "forgetmi.data_adapters": ROOT / "data_adapters",
}

# From the ground up; an import only ever points down, or stays in its room. Rooms of one floor do not see each other.
FLOORS: list[set[str]] = [
    {"errors", "memory"},
    {"registry", "files", "values", "delimited", "duplicates"},
    {"options", "records"},
    {"modalities", "partition", "splits", "forget_request"},
    {"request_list", "request_query"},
    {"request_sources"},
    {"requests"},
    {"batch", "pseudonyms"},
    {"models", "data_adapters"},
    {"tasks"},
    {"training"},
    {"parts", "metrics"},
    {"attacks"},
    {"methods"},
    {"audit"},
    {"settings", "inputs"},
    {"model_settings"},
    {"config"},
    {"runs", "semeval"},
    {"cli"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Two modules of the training room import nothing but torch and numpy, and models need them to draw weights.
ALLOWED = {("models", "forgetmi.training.seeds"), ("models", "forgetmi.training.modes")}


def _modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found.append((".".join([package, *(p for p in parts if p != "__init__")]), path))
    return found


MODULES = _modules()


def _room(module: str) -> str | None:
    """``forgetmi.training.trainer`` -> ``training``; the package itself has none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def _imports(path: Path) -> list[tuple[str, int]]:
    """Modules of this package that a file imports, lazily too; not those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            if module == "forgetmi":
                found += [(f"forgetmi.{name.name}", node.lineno) for name in node.names]
            elif module.startswith("forgetmi."):
                found.append((module, node.lineno))
        elif isinstance(node, ast.Import):
            found += [(name.name, node.lineno) for name in node.names if name.name.startswith("forgetmi.")]
    return found


def test_every_room_stands_on_a_floor():
    rooms = {_room(module) for module, _ in MODULES} - {None}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[module for module, _ in MODULES])
def test_imports_point_down(module, path):
    room = _room(module)
    if room is None:
        return  # forgetmi/__init__.py offers names of every room, each when it is asked for
    wrong = []
    for target, line in _imports(path):
        there = _room(target)
        if there == room or (room, target) in ALLOWED:
            continue
        if there not in FLOOR_OF or FLOOR_OF[there] >= FLOOR_OF[room]:
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    assert not wrong


def test_the_check_sees_an_import_that_points_up(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from forgetmi.cli.run import run\n    import forgetmi.audit.report\n    return run\n")
    assert [target for target, _ in _imports(bad)] == ["forgetmi.cli.run", "forgetmi.audit.report"]
    assert FLOOR_OF["cli"] > FLOOR_OF["audit"] > FLOOR_OF["records"]


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[module for module, _ in MODULES])
def test_no_module_is_longer_than_500_lines(module, path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_every_package_is_listed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in SOURCES.items()
        for path in folder.rglob("__init__.py")
    }
    assert there == set(settings["packages"])
    unlisted = [
        path
        for folder in SOURCES.values()
        for path in folder.rglob("*.py")
        if not (path.parent / "__init__.py").is_file()
    ]
    assert not unlisted


HEAVY = ("torch", "transformers", "timm", "pandas", "matplotlib", "sklearn", "numpy", "pydantic", "yaml")


def _loaded(code: str) -> list[str]:
    """Heavy packages that are loaded after running code in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_importing_loads_nothing_heavy():
    assert _loaded("import forgetmi; dir(forgetmi)") == []


def test_help_loads_nothing_heavy_of_ours():
    code = """
from typer.testing import CliRunner
from forgetmi.cli import app
for words in (["--help"], *([command, "--help"] for command in
              ("demo", "check", "train", "unlearn", "shadows", "audit", "run", "report", "compare",
               "semeval", "ls", "init"))):
    assert CliRunner().invoke(app, words).exit_code == 0, words
"""
    assert set(_loaded(code)) <= {"pydantic"}  # which typer itself uses


def test_every_public_name_is_there():
    import forgetmi

    for name in forgetmi.__all__:
        assert getattr(forgetmi, name) is not None
    assert set(forgetmi._WHERE) | {"__version__"} == set(forgetmi.__all__)


GLOBAL_RANDOMNESS = {"torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed", "torch.seed"}


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[module for module, _ in MODULES])
def test_the_global_generators_are_not_seeded(module, path):
    calls = {
        ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)
    }
    assert not calls & GLOBAL_RANDOMNESS
    if module != "forgetmi.training.seeds":  # where it is borrowed, and given back
        assert not {call for call in calls if call.endswith((".default_generator.manual_seed", "cuda.manual_seed"))}


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[module for module, _ in MODULES])
def test_nothing_is_swallowed_and_nothing_is_unpickled(module, path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not bare
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
