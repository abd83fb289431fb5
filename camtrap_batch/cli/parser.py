"""A parser that learns its arguments when it is used, so that one command's modules are imported alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias


class Parser(argparse.ArgumentParser):
    """A parser that may add arguments once it sees what it is given.

    Attributes
    ----------
    late : called once with the parser and its arguments, before they are parsed; may set another one
    describe : makes the epilog, once help is asked for
    """

    late: Callable[[Parser, Sequence[str]], None] | None = None
    describe: Callable[[], str] | None = None

    def complete(self, arguments: Sequence[str] = ()) -> None:
        """Add what is still to be added, for these arguments."""
        while self.late is not None:
            late, self.late = self.late, None
            late(self, arguments)

    def format_help(self) -> str:
        if self.describe is not None:
            self.epilog, self.formatter_class = self.describe(), argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.complete(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if "--log-json" in sys.argv:
            from camtrap_batch.monitor.display import JsonLines  # 0.3 s of libraries that draw tables

            JsonLines(sys.stderr, None).event("error", text=message)
            self.exit(2)
        super().error(message)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""The type that `add_subparsers` returns."""
