"""Prints the figures of the house, and names the modules and functions that are beyond its limits.

python tools/figures.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_IMPORTS, MOST_PARAMETERS = 20, 6


def lines_of(folder: Path) -> int:
    """The lines of all modules below a folder."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def imports_of(tree: ast.Module) -> int:
    """How many modules are imported, wherever that stands, ``__future__`` aside."""
    found: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return len(found - {"__future__"})


def functions_of(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The parameters of a function, without ``self`` and ``cls``."""
    found = function.args
    names = [item.arg for item in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    return sum(name not in ("self", "cls") for name in names)


def length_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    assert function.end_lineno is not None
    length = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        assert first.end_lineno is not None
        length -= first.end_lineno - first.lineno + 1
    return length


def spread(values: list[int]) -> str:
    """The median, the 90th percentile and the largest."""
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]}/{ordered[int(0.9 * (len(ordered) - 1))]}/{ordered[-1]}"


def beyond(name: str, tree: ast.Module) -> list[str]:
    """A line for each limit that a module is beyond."""
    found = [f"{name}: {imports_of(tree)} imports"] if imports_of(tree) > MOST_IMPORTS else []
    for function in functions_of(tree):
        if parameters_of(function) > MOST_PARAMETERS:
            found.append(f"{name}:{function.lineno} {function.name}: {parameters_of(function)} parameters")
    return found


def main() -> None:
    """Prints the figures of ``src/immiscible``."""
    source = ROOT / "src" / "immiscible"
    paths = sorted(source.rglob("*.py"))
    trees = {str(path.relative_to(source)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    functions = [function for tree in trees.values() for function in functions_of(tree)]
    lines = lines_of(source)
    print(f"modules                       {len(trees)}")
    print(f"lines                         {lines:,}")
    modules = [len(path.read_text(encoding="utf-8").splitlines()) for path in paths]
    print(f"lines of a module, med/p90/max    {spread(modules)}")
    print(f"lines of a function, med/p90/max  {spread([length_of(function) for function in functions])}")
    print(f"imports of a module, at most  {max(map(imports_of, trees.values()))}")
    print(f"parameters, at most           {max(map(parameters_of, functions))}")
    print(f"test lines per source line    {lines_of(ROOT / 'tests') / lines:.2f}")
    for name, tree in trees.items():
        for line in beyond(name, tree):
            print(f"beyond: {line}")


if __name__ == "__main__":
    main()
