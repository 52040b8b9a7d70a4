"""A command with subcommands, each with arguments of its own."""

import argparse
from collections.abc import Callable, Sequence

from contextcir.errors import InputError
from experiments.failures import one_line_errors
from experiments.mistakes import PlainParser

Run = Callable[[argparse.Namespace], None]


class Subcommands(PlainParser):
    """Parser of a command with subcommands.

    Args:
        module: name of the module that is run.
        description: of the command.
        names: of the subcommands.
        positional: settings that errors may name and that are no flags here.
    """

    def __init__(self, module: str, description: str, names: Sequence[str], positional: Sequence[str] = ()) -> None:
        super().__init__(prog=f"python -m {module}", description=description)
        self.names, self.positional = names, positional
        metavar = f"{{{','.join(names)}}}"
        self._parsers = self.add_subparsers(dest="subcommand", metavar=metavar, required=True, parser_class=PlainParser)

    def add(self, name: str, run: Run, help: str) -> PlainParser:
        """Add a subcommand, and return its parser; ``run`` takes the parsed arguments."""
        options: PlainParser = self._parsers.add_parser(name, description=help, help=help)
        options.set_defaults(run=run)
        return options

    def run(self, args: Sequence[str] | None, stopped: str = "") -> None:
        """Parse a command line and run it; errors are told in one line, ``stopped`` when the user stops it."""
        with one_line_errors(stopped):
            given = self.parse_args(args)
            try:
                given.run(given)
            except InputError as error:
                if error.setting in self.positional:
                    raise type(error)(error.without_setting()) from None
                raise
