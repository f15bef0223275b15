"""What the shell asks when somebody presses Tab: commands, options, and their values, by argcomplete."""

import argparse
import importlib
import os
from typing import Any, Literal, get_args, get_origin

import argcomplete
from argcomplete.completers import ChoicesCompleter, FilesCompleter

from atfr.cli.main import COMMANDS
from atfr.cli.parser import make_parser


def complete() -> None:
    """Answer the shell, which has put the line into the environment, and end the process."""
    words = argcomplete.split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3][1:]
    name = next((name for name in COMMANDS if name.split() == words[: len(name.split())]), None)
    depth = len(name.split()) if name else int(any(command.split()[0] in words[:1] for command in COMMANDS))
    os.environ["_ARGCOMPLETE"] = str(depth + 1)  # the word that stands for the program
    if name is None:
        begun = [command.split() for command in COMMANDS]
        parser = argparse.ArgumentParser()
        parser.add_argument("command", choices=[each[depth] for each in begun if each[:depth] == words[:depth]])
        argcomplete.autocomplete(parser)
        return
    command = COMMANDS[name]
    options: Any = make_parser(name, getattr(importlib.import_module(command.module), command.function), False)
    for action in options._actions:
        if action.nargs != 0:  # no flag
            known: Any = choices(getattr(action, "_typehint", None))
            action.completer = ChoicesCompleter(known) if known else FilesCompleter()
    options.parse_args([])  # which asks argcomplete


def choices(kind: Any) -> list[str]:
    """Return the words among the values of a type."""
    parts = get_args(kind)
    return (
        [str(part) for part in parts]
        if get_origin(kind) is Literal
        else [one for part in parts for one in choices(part)]
    )
