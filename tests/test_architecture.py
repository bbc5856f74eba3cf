"""What the layout of the project promises: who may import whom, how files are named, how long they are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VISION = sorted((ROOT / "vision").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

# Modules that every package may import; they import only each other.
FOUNDATION = {
    *("vision.errors", "vision.types", "vision.inference", "vision.ranges", "vision.atomic", "vision.units"),
    *("vision.stopping", "vision.huge_pages", "vision.home", "vision.platform", "vision.written_option"),
}
# What each package may import of this project, besides itself and the foundation.
ALLOWED = {
    "vision.ops": set(),
    "vision.parallel": set(),
    "vision.report": {"vision.ops"},
    "vision.data": {"vision.ops"},
    "vision.metrics": {"vision.ops"},
    "vision.diffusion": {"vision.ops"},
    "vision.nn": {"vision.ops", "vision.parallel"},
    "vision.models": {"vision.nn", "vision.ops", "vision.parallel"},
    "vision.tasks": {"vision.models", "vision.nn", "vision.diffusion", "vision.ops", "vision.parallel"},
    "vision.train": {"vision.parallel"},
    "vision.pretrained": {"vision.models", "vision.nn", "vision.ops", "vision.train", "vision.parallel"},
    "vision.evaluation": {
        *("vision.data", "vision.metrics", "vision.ops", "vision.report", "vision.tasks", "vision.train"),
        *("vision.pretrained", "vision.parallel", "vision.diffusion"),
    },
    "vision.recipes": {
        *("vision.evaluation", "vision.data", "vision.metrics", "vision.ops", "vision.report", "vision.tasks"),
        *("vision.models", "vision.nn", "vision.diffusion", "vision.train", "vision.pretrained", "vision.parallel"),
    },
    "vision.launch": {
        *("vision.train", "vision.parallel", "vision.pretrained", "vision.report", "vision.data.image_file"),
        *("vision.data.provenance", "vision.ops.pixels", "vision.ops.watermark"),
    },
    "vision.__main__": {"vision.launch"},
    "vision.ablation": {"vision.launch", "vision.train.records", "vision.parallel.processes", "vision.report"},
}


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            # `from vision.launch import workdir` imports a module
            found.update(
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
            )
    return found


def within(module, package):
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", VISION, ids=module_of)
def test_imports_point_one_way(path):
    package = ".".join(module_of(path).split(".")[:2])
    if path.name == "__init__.py" or package in FOUNDATION:
        assert not {name for name in imports(path) if within(name, "vision")} - FOUNDATION - {"vision"}
        return
    assert package in ALLOWED, f"say in this test what {package} may import"
    allowed = {*ALLOWED[package], *FOUNDATION, package}
    ours = {name for name in imports(path) if within(name, "vision") or within(name, "experiments")}
    # the package of an imported module is named in the import too
    parents = {name for name in ours if any(within(other, name) and other != name for other in ours)}
    wrong = {name for name in ours - parents if not any(within(name, good) for good in allowed)}
    assert not wrong, f"{module_of(path)} must not import {', '.join(sorted(wrong))}"


def test_nothing_imports_experiments_but_experiments():
    for path in VISION:
        assert not {name for name in imports(path) if within(name, "experiments")}, path


def test_only_launch_ablation_and_experiments_know_the_launcher():
    for path in VISION:
        may = ("vision.launch", "vision.ablation", "vision.__main__")
        if not any(within(module_of(path), package) for package in may):
            assert not {name for name in imports(path) if within(name, "vision.launch")}, path


def test_the_table_of_directions_has_no_circle():
    below = {
        package: {name for name in ALLOWED if any(within(other, name) for other in ALLOWED[package])}
        for package in ALLOWED
    }
    while below:
        lowest = {package for package, others in below.items() if not others & set(below)}
        assert lowest, f"a circle among {', '.join(sorted(below))}"
        below = {package: others for package, others in below.items() if package not in lowest}


@pytest.mark.parametrize("path", [*VISION, *EXPERIMENTS], ids=module_of)
def test_files(path):
    text = path.read_text()
    if path.name == "__init__.py":
        starts = path.parent in (ROOT / "vision", ROOT / "experiments")
        assert not text.strip() or starts, f"{path} must be empty: no re-exports"
        assert imports(path) <= {"vision.stopping"}
        return
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}
    lines = text.count("\n")
    assert lines <= 500, f"{path} has {lines} lines: one concept a file"
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def undocumented(body, prefix=""):
    """Public functions, classes and methods without a docstring; those with `_` in their path are private."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)
        if not ast.get_docstring(node) and not overload and not _inherited(node, prefix):
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{node.name}.")


def _inherited(node, prefix):
    """A property or method of one line in a class says itself what it is when the class has a docstring."""
    return bool(prefix) and isinstance(node, ast.FunctionDef) and len(node.body) == 1


@pytest.mark.parametrize("path", VISION, ids=module_of)
def test_what_is_public_has_a_docstring(path):
    missing = list(undocumented(ast.parse(path.read_text()).body))
    assert not missing, f"{module_of(path)}: {', '.join(missing)}"


def test_names_of_test_files_are_unique():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_golden_values_are_read_by_a_test():
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for path in (ROOT / "tests" / "golden").iterdir():
        assert path.name in sources, f"no test reads {path.name}"
