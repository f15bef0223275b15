"""Make a command's parser from its function: types and defaults from the signature, help from the docstring, or of
options that several commands share from `SHARED`.

Parameters before the `*` are positional arguments, the others options; a bool that is False by default is a flag. A
parameter named `trainer` takes all options of `lightning.Trainer`, as `--trainer.NAME`; one named `out` is `-o` too;
`from_`, a word of Python's, is `--from`.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Set
from typing import Any, get_args, get_origin

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader, set_loader

from atfr.cli.common import busy

TRAINER, OUT, FROM = "trainer", "out", "from_"
LARGEST = 2**32
"""No number that is given reaches it: seeds lie below, and all that is counted."""
OWN_TRAINER_OPTIONS: set[str | int] = {"max_epochs", "default_root_dir"}
"""Those that commands have as options of their own."""
SHARED = {
    "active_bins": "The mean number of maps that a control keeps; for several layers one for each.",
    "address": "A Ray cluster, or auto; by default that of the environment (`ray job submit`), else Ray is started "
    "here, for this call alone.",
    "batch_size": "Clips in one forward pass, at most.",
    "bundle": "Instead of it, a folder that `atfr export` wrote.",
    "checkpoint": "A folder that `atfr train` wrote, or i3d_inception or another name of `atfr weights`.",
    "data": "A folder of classes, or a CSV file with the columns path and label (and split or fold).",
    "dataset": "A data set of the field, in the layout of its download in the folder `data` (docs/data.md).",
    "device": "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.",
    "embedding_dim": "Dimension of the similarity space.",
    "json": "Print JSON instead of text.",
    "num_bins": "Another number of bins than in training: with fewer a clip keeps fewer maps and costs less.",
    "num_workers": "Processes that decode; 0 decodes in a thread beside the network.",
    "precision": "bfloat16 is faster on GPUs and on CPUs that have it (AMX, AVX512-BF16); it moves scores by percents,"
    " and may move active bins.",
    "sampler": "sgs; change, which keeps maps where the clip changes; a control that does not look (uniform, average, "
    "random); or temporal attention, which merges nothing.",
    "seed": "Of weights, clips and their order.",
    "split": "The split of UCF101 or HMDB51.",
    "temporal_block": "Maps are grouped within blocks of so many; for several layers one for each, as [8,2] for "
    "SlowFast's fast and slow pathway. By default over the whole clip.",
    "test_fold": "The fold of the CSV file to test on, where it has a column fold.",
    "views": "Clips x crops of each video, scores averaged; crops are 1 (centre) or 3. X3D's alpha is 10x1, beta 10x3. "
    "With auto the views of a video stop once its class is settled, as `atfr calibrate --views` has found for this "
    "network.",
}
"""The help of options that mean the same in several commands, whose docstrings leave them out."""

# A value that is no YAML is text as it stands: so is a path whose bytes are no UTF-8.
set_loader("yaml", get_loader("yaml"), exceptions=(yaml.YAMLError, UnicodeEncodeError))


class UsageError(Exception):
    """The arguments of a command are wrong."""


Defaults = Callable[[Mapping[str, Any], Set[str]], Mapping[str, Any]]


def parse(
    name: str, function: Callable[..., Any], args: list[str], defaults_for: Defaults | None = None
) -> dict[str, Any]:
    """Return the keyword arguments for a command's function.

    `defaults_for` sees the values, and the names of those that were given, and returns defaults that suit them better;
    what was given stands.

    Raises:
        UsageError: an argument is unknown, missing or wrong; the message is one line.
        SystemExit: help or the configuration was asked for, and printed.
    """
    wants_help = {"-h", "--help"} & set(args)
    trainer_help = f"--{TRAINER}.help" in args
    parser = make_parser(name, function, with_trainer=not wants_help)
    try:
        if defaults_for is not None and not (wants_help or trainer_help):
            set_better_defaults(parser, args, defaults_for)
        given = parser.parse_args(["--help"] if trainer_help else args)
        check_numbers(vars(given), "--")
    except ArgumentError as error:
        raise UsageError(one_line(str(error), parser)) from error
    try:
        values = vars(parser.instantiate(given))
    except Exception as error:  # whatever a logger or a callback raises that lacks a package or an argument
        raise UsageError(f"an option cannot be made: {cause_of(error)}") from error
    values.pop("config", None)
    if (source := FROM.rstrip("_")) in values:
        values[FROM] = values.pop(source)
    if (trainer := values.get(TRAINER)) is not None:
        defaults = vars(parser.get_defaults()[TRAINER])
        values[TRAINER] = {key: value for key, value in vars(trainer).items() if value != defaults.get(key)}
    return values


def check_numbers(value: Any, name: str) -> None:
    """Refuse numbers that are not finite, or larger than anything that is counted here, wherever they stand.

    Raises:
        UsageError: one is; the message names the option.
    """
    if isinstance(value, Namespace | Mapping):
        for key, item in vars(value).items() if isinstance(value, Namespace) else value.items():
            check_numbers(item, f"{name}{'' if name == '--' else '.'}{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            check_numbers(item, name)
    elif isinstance(value, int | float) and not abs(value) < LARGEST:
        raise UsageError(f"{name}: expected a number below {LARGEST}, got {value}")


def cause_of(error: BaseException) -> str:
    """Return what an error that was raised from others began with, in one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join(f"{type(error).__name__}: {error}".split())


def set_better_defaults(parser: ArgumentParser, args: list[str], defaults_for: Defaults) -> None:
    """Read the arguments once, to see which defaults suit them; also where they are only to be printed."""
    asked = [argument for argument in args if not argument.startswith("--print_config")]
    try:
        values, given = (vars(parser.parse_args(asked, defaults=also)) for also in (True, False))
    except ArgumentError:
        if asked == args:
            raise
        return  # what is printed need not be complete
    parser.set_defaults(dict(defaults_for(values, given.keys())))


def make_parser(name: str, function: Callable[..., Any], with_trainer: bool = True) -> ArgumentParser:
    """Return the parser of a command; without the options of `lightning.Trainer`, it is made in no time."""
    doc = docstring_parser.parse(inspect.getdoc(function) or "")
    helps = SHARED | {parameter.arg_name: parameter.description for parameter in doc.params}
    description = "\n\n".join(text for text in (doc.short_description, doc.long_description) if text)
    parser = ArgumentParser(prog=name, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="Read options from this YAML file (see --print_config).")
    parameters = inspect.signature(function, eval_str=True).parameters
    positionals = [p for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    flags = [p for p in parameters.values() if p.default is False]
    for parameter in positionals:
        several = get_origin(parameter.annotation) is list
        kind = get_args(parameter.annotation)[0] if several else parameter.annotation
        needed = parameter.default is parameter.empty
        extra: dict[str, Any] = {}
        if several or not needed:
            extra = {"nargs": ("+" if needed else "*") if several else "?"}
        if several and not needed:
            extra["default"] = []
        parser.add_argument(parameter.name, type=kind, help=helps.get(parameter.name), **extra)
    skip: set[str | int] = {TRAINER, OUT, FROM, *(p.name for p in (*positionals, *flags))}
    parser.add_function_arguments(function, as_group=False, skip=skip)
    for action in parser._actions:
        action.help = action.help or helps.get(action.dest)
    if (out := parameters.get(OUT)) and out.kind is out.KEYWORD_ONLY:
        given: dict[str, Any] = {"required": True} if out.default is out.empty else {"default": out.default}
        parser.add_argument("-o", f"--{OUT}", type=out.annotation, help=helps.get(OUT), **given)
    if source := parameters.get(FROM):
        parser.add_argument(f"--{FROM.rstrip('_')}", type=source.annotation, help=helps.get(FROM))
    for parameter in flags:
        parser.add_argument(f"--{parameter.name}", action="store_true", help=helps.get(parameter.name))
    if TRAINER in parameters:
        add_trainer(parser, with_trainer)
    return parser


def add_trainer(parser: ArgumentParser, in_full: bool) -> None:
    """Add the options of `lightning.Trainer`, or only the way to their help: there are hundreds of lines of it."""
    if in_full:
        with busy("starting"):
            from lightning.pytorch import Trainer

        parser.add_class_arguments(Trainer, TRAINER, instantiate=False, skip=OWN_TRAINER_OPTIONS)
    else:
        group = parser.add_argument_group("lightning.Trainer")
        group.add_argument(
            f"--{TRAINER}.OPTION", metavar="VALUE", help="Any of its options; `--trainer.help` lists them."
        )


def one_line(message: str, parser: ArgumentParser) -> str:
    """Say in one line what jsonargparse says in several, and which option was meant."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).replace("NoneType", "null")
    text = re.sub(r"a (?:typing\.)?Literal\[(.*)\]", r"one of \1", text)
    if unknown := re.search(r"[Uu]nrecognized arguments: (--[\w.-]+)", text):
        known = [name for name in parser._option_string_actions if not name.endswith(".help")]
        near = difflib.get_close_matches(unknown[1], known, n=2, cutoff=0.7)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"unrecognised option {unknown[1]}{hint}"
    found = re.search(r'Parser key "([^"]+)":\s*(.*)', text, re.DOTALL)
    if found is None:
        return " ".join(text.split())
    key, body = found.groups()
    subtypes, value = re.search(r"Subtypes: \[(.*)\]\n", body), re.search(r"Given value: (.*)", body, re.DOTALL)
    if subtypes and value:
        body = f"Expected {' or '.join(subtypes[1].split(', '))}. Got value: {value[1]}"
    name = f"--{key}" if f"--{key}" in parser._option_string_actions else key.upper()  # no option: by its place
    return " ".join(f"{name}: {body}".split())
