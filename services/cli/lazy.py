"""Commands are imported when they are called: the list of them is read from docstrings."""

import ast
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

_FOLDER = Path(__file__).parent


def lazy_group(panels: Mapping[str, str | None]) -> type[TyperGroup]:
    """A class for `typer.Typer(cls=…)`: its commands are modules of `services.cli`.

    Args:
        panels: for each command the heading it is listed under; None is "Commands". A module has
            a function of its own name.
    """

    class LazyGroup(TyperGroup):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.commands = _Commands(panels)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            listed = TyperGroup(
                name=self.name,
                commands={name: _summary(name, panel) for name, panel in panels.items()},
                params=self.params,
                help=self.help,
                epilog=self.epilog,
                rich_markup_mode=self.rich_markup_mode,
            )
            listed.format_help(ctx, formatter)

    return LazyGroup


class _FiniteCommand(TyperCommand):
    """A command that refuses `inf` and `nan`, which Typer takes for numbers."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. BadParameter names the option whose number is not finite."""
        for option in self.params:
            value = ctx.params.get(option.name)
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    hint = " / ".join(f"'{name}'" for name in option.opts)
                    raise typer.BadParameter(f"{number} is not finite", ctx, param_hint=hint)
        return super().invoke(ctx)


class _Commands(dict[str, Any]):
    """Commands by name; one is imported when it is looked up."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(names))

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            alone = typer.Typer(rich_markup_mode="rich", add_completion=False)
            command = getattr(import_module(f"services.cli.{name}"), name)
            help_text = _wrapped(inspect.getdoc(command) or "")
            alone.command(name, cls=_FiniteCommand, help=help_text)(command)
            self[name] = get_command(alone)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401


def _wrapped(text: str) -> str:
    r"""A docstring for Typer, which keeps its line breaks and may remove the examples' margin.

    >>> _wrapped("Do it.\n\nOne\nsentence.\n\nExamples:\n  do --it")
    'Do it.\n\nOne sentence.\n\nExamples:\n[not dim]  do --it[/]'
    """
    joined = re.sub(r"(?<!\n)\n(?=\S)", " ", text)
    return re.sub(r"^ .*$", r"[not dim]\g<0>[/]", joined, flags=re.MULTILINE)


def _summary(name: str, panel: str | None) -> TyperCommand:
    """A command that has its help and no more."""
    tree = ast.parse((_FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name
    )
    return TyperCommand(
        name,
        help=inspect.cleandoc(ast.get_docstring(function) or ""),
        rich_help_panel=panel,
        rich_markup_mode="rich",
    )
