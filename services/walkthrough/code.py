"""What the page says about the code, read from its source: importing it takes seconds."""

import ast
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

from services.platform.design import HttpApp, Process

_ENGINES = "infra.local.engines"


def beginning(name: str, process: HttpApp | Process | None) -> tuple[str, int]:
    """File and line where a process begins; an engine's are those of its configuration."""
    if process is None:
        return _place(_ENGINES, f"_{name}") if name else ("", 0)
    if isinstance(process, HttpApp):
        module, _, function = process.factory.partition(":")
        return _place(module, function)
    return _place(process.module, "main")


def candidates(package: str) -> dict[str, str]:
    """Roles by name of a design's candidates: classes with `register`, in its folder."""
    folder = find_spec(f"{package}.candidates")
    if folder is None:
        return {}
    paths = list(folder.submodule_search_locations or ())
    modules = (find_spec(f"{package}.candidates.{module.name}") for module in iter_modules(paths))
    files = sorted(spec.origin for spec in modules if spec is not None and spec.origin)
    return {
        _constant(one, "name"): _constant(one, "role")
        for file in files
        for one in ast.parse(Path(file).read_text()).body
        if isinstance(one, ast.ClassDef) and any(_is_register(d) for d in one.decorator_list)
    }


def _is_register(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Attribute) and decorator.attr == "register"


def _constant(one: ast.ClassDef, name: str) -> str:
    """The text that a class assigns to a name, with a type or without; empty for none."""
    for line in one.body:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        value = getattr(line, "value", None)
        if isinstance(target, ast.Name) and target.id == name and isinstance(value, ast.Constant):
            return str(value.value)
    return ""


def _place(module: str, function: str) -> tuple[str, int]:
    """File of a module, and line of a function in it; 1 if it is not found."""
    path = module.replace(".", "/") + ".py"
    spec = find_spec(module)
    if spec is None or not spec.origin:
        return path, 1
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            return path, node.lineno
    return path, 1
