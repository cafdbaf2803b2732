"""The house rule: ir < codegen < passes < autotune < compiler; a module imports its own floor and below."""

import ast
from pathlib import Path

import pytest

import headrace

PACKAGE = Path(headrace.__file__).parent
FLOORS = {"ir": 1, "codegen": 2, "passes": 3, "autotune": 4, "compiler": 5, "demo": 6, "__main__": 6}
# These modules stand below every floor.
GROUND = {"configuration", "errors", "files", "settings", "upstream"}


def imports(source: str, package: str) -> set[str]:
    """The headrace modules that a source imports, as dotted names, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name == "headrace" or name.startswith("headrace.")}


def climbs(path: str, source: str) -> list[str]:
    """The imports in a module that reach above its floor."""
    parts = path.removesuffix(".py").split("/")
    here = FLOORS.get(parts[0], 0)
    package = ".".join(["headrace", *parts[:-1]])
    return [
        name
        for name in sorted(imports(source, package))
        if name.count(".") and FLOORS.get(name.split(".")[1], 0) > here
    ]


MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__.py"])
def test_module_imports_only_downwards(module: str) -> None:
    assert climbs(module, (PACKAGE / module).read_text()) == []


def test_every_package_is_on_a_floor_or_the_ground() -> None:
    tops = {module.split("/")[0].removesuffix(".py") for module in MODULES} - {"__init__"}
    assert tops <= FLOORS.keys() | GROUND


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("ir/a.py", "from headrace.codegen import x", ["headrace.codegen", "headrace.codegen.x"]),
        ("passes/a.py", "import headrace.compiler.backend", ["headrace.compiler.backend"]),
        ("ir/b.py", "def f():\n    from ..passes import y", ["headrace.passes", "headrace.passes.y"]),
        ("compiler/a.py", "from headrace.ir import graph", []),
    ],
)
def test_the_rule_sees_a_climb(path: str, source: str, expected: list[str]) -> None:
    assert climbs(path, source) == expected
