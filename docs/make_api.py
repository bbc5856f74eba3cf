"""Write docs/api.md: what each package offers, from the sources, without importing them.

    python docs/make_api.py

Public functions and classes, with their signature and the first line of their docstring.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "api.md"

HEAD = """\
# API

Public functions and classes by package, with their signatures and the first lines of their docstrings. Written by
`python docs/make_api.py`; a test holds it to the sources.
"""

PACKAGES = {
    "vision": "Shared by all",
    "vision.ops": "Array mathematics",
    "vision.data": "Data",
    "vision.nn": "Building blocks",
    "vision.models": "Architectures",
    "vision.diffusion": "Diffusion",
    "vision.tasks": "Objectives",
    "vision.metrics": "Metrics",
    "vision.evaluation": "Evaluation",
    "vision.pretrained": "Published weights",
    "vision.parallel": "Devices and processes",
    "vision.train": "Training",
    "vision.report": "Reports",
    "vision.launch": "Runs and command lines",
    "vision.ablation": "Ablation studies",
    "experiments": "Experiments",
}
"""Headings of packages that are known; others come last, under their own name."""


def package_of(path: Path) -> str:
    """The package of a source file: "vision.data" for vision/data/shapes/world.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0]


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A function's name, arguments and result, as written in the source, on one line."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{node.name}({ast.unparse(node.args)}){result}"


def entries(path: Path) -> list[str]:
    """A line for each public function and class of a file."""
    found: list[str] = []
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        bases = ", ".join(ast.unparse(base) for base in getattr(node, "bases", []))
        shown = f"class {node.name}({bases})" if isinstance(node, ast.ClassDef) else signature(node)
        found.append(f"- `{shown.replace('()', '') if isinstance(node, ast.ClassDef) else shown}`: {summary(node)}")
    return found


def summary(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The first line of a docstring."""
    return (ast.get_docstring(node) or "").split("\n")[0]


def page() -> str:
    """The text of docs/api.md."""
    paths = sorted(path for folder in ("vision", "experiments") for path in (ROOT / folder).rglob("*.py"))
    modules: dict[str, list[Path]] = {}
    for path in paths:
        if path.name != "__init__.py":
            modules.setdefault(package_of(path), []).append(path)
    order = [name for name in PACKAGES if name in modules] + sorted(set(modules) - set(PACKAGES))
    lines = [HEAD]
    for package in order:
        lines += [f"## {PACKAGES.get(package, package)}: `{package}`", ""]
        for path in modules[package]:
            lines += [f"### `{module_of(path)}`", "", summary(ast.parse(path.read_text())), ""]
            listed = entries(path)
            lines += [*listed, ""] if listed else []
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    FILE.write_text(page())
