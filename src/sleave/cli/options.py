"""Every setting of a recipe as a command-line option, with its docstring and the recipe's value as help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pydantic_settings import CliSettingsSource

from sleave.base.errors import nearest
from sleave.base.settings import Settings
from sleave.recipe import Recipe, load_recipe


class Parser(argparse.ArgumentParser):
    """Takes options by their full names only, and suggests the nearest one to a mistaken one."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if message.startswith("unrecognized arguments") and unknown.startswith("-"):
            options = [o for action in self._actions for o in action.option_strings]
            given = unknown.split("=")[0]
            same = [o for o in options if o.rpartition(".")[2] == given.lstrip("-") and "." in o]
            message = f"{unknown} is not an option. {nearest(given, options)}"
            if same:
                message = f"{unknown} is not an option. Did you mean {' or '.join(f'`{o}`' for o in same)}?"
            elif "Allowed" in message:
                message = f"{unknown} is not an option. `{self.prog} --help` lists them."
        if message.startswith("argument --suite: invalid choice"):
            message += ". Runs come first: sleave evaluate DIR --suite NAME"
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(2)


def parse_recipe(parser: Parser, arguments: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    """Add a positional RECIPE and an option for every setting to a parser, then read the recipe with its overrides.

    Raises:
        SleaveError: the recipe is missing or has mistakes.
    """
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file; see recipes/")
    namespace, overrides = parse_settings(parser, arguments)
    return namespace, load_recipe(namespace.recipe, overrides)


def parse_settings(
    parser: Parser, arguments: Sequence[str], kind: type[Settings] = Recipe
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Add an option for every setting to a parser; then the parser's own arguments, and the settings given, nested."""
    own = {action.dest for action in parser._actions}
    settings: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        kind,  # type: ignore[arg-type]  # it reads fields, and any model has those
        root_parser=parser,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _show_values(parser, own, next((a for a in arguments if a.endswith(".toml")), None))
    namespace = parser.parse_args(arguments)
    chosen = argparse.Namespace(**{k: v for k, v in vars(namespace).items() if k not in own})
    overrides: dict[str, Any] = settings(parsed_args=chosen)()
    return namespace, overrides


def _show_values(parser: Parser, own: set[str], recipe: str | None) -> None:
    """Put what would be used without an override at the end of each option's help."""
    try:
        values = load_recipe(recipe).model_dump(mode="json") if recipe else {}
    except ValueError:  # it is read again, and complained about, once the help is not what was asked for
        values = {}
    for action in parser._actions:
        if action.dest in own or action.help in (None, argparse.SUPPRESS):
            continue
        text = str(action.help).split(" (default:")[0].split(" (required)")[0]
        value = _look_up(values, action.dest)
        action.help = (text if value is None else f"{text} (now: {value})").replace("%", "%%")


def _look_up(values: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return None
        values = values[key]
    return values
