"""The command line: `passreid VERB …`. One verb, one function; heavy imports wait inside it."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cyclopts import CycloptsError

from passreid.cli.app import GROUPS, SYNONYMS, app, complain, note, quiet
from passreid.errors import PassreidError

_UNTIL_HEARD = 10.0
"""Seconds a process waits that leaves the word to the first.

When one has ended, torchrun ends all, also the one that was about to speak.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and leave: 0 done, 1 a failure the message explains, 2 wrong usage."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: nobody listens
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as we live
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What stdout's encoding lacks is spelled out, as stderr does, and does not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; messages go to stderr, never a traceback."""
    try:
        _register()
        with _verbosity(arguments) as rest, _warnings_on_stderr():
            result = app(
                rest,
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
    except KeyboardInterrupt:
        return complain("Stopped.", code=130)
    except BrokenPipeError:
        # The reader went away (`| head`); nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CycloptsError, PassreidError, OSError) as error:
        text, code = _explained(error)
        if _speaks(arguments, error):
            return complain(text, code=code)
        time.sleep(_UNTIL_HEARD)
        return code
    return result if isinstance(result, int) else 0


@contextmanager
def _verbosity(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Take -q, -v and their long names out of a command line, and do what they say."""
    given = list(arguments)
    end = given.index("--") if "--" in given else len(given)
    options, rest = set(given[:end]), given[end:]
    named = {"-q", "--quiet", "-v", "--verbose"}
    logger = logging.getLogger("passreid")
    level, handler = logger.level, logging.StreamHandler()
    if options & {"-q", "--quiet"}:
        quiet.set()
    if options & {"-v", "--verbose"}:
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield [argument for argument in given[:end] if argument not in named] + rest
    finally:
        quiet.clear()
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Notes(logging.Handler):
    """Prints log records as the command line prints remarks."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Print what a weight file does not say and was assumed, whatever logging is set up."""
    logger, handler = logging.getLogger("passreid.checkpoint"), _Notes()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _explained(error: Exception) -> tuple[str, int]:
    """Return what to say of an error, and the exit code."""
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror or error}.", 1
    return str(error), error.exit_code if isinstance(error, PassreidError) else 2


def _speaks(arguments: Sequence[str], error: Exception) -> bool:
    """Whether this process tells: all of a training meet the same errors, but for some of one."""
    training = arguments[:1] and arguments[0] in ("adapt", "finetune", "pretrain")
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    return first or not training or getattr(error, "alone", False)


def _register() -> None:
    """Import the verbs, which register themselves with the app."""
    from passreid.cli import (  # noqa: F401
        bench,
        calibration,
        data,
        demo,
        doctor,
        embedding,
        entries,
        exchange,
        gallery,
        measure,
        models,
        serve,
        train,
        upkeep,
        use,
        video,
    )

    if "--install-completion" not in app:
        app.register_install_completion_command()
    for group, verbs in GROUPS.items():
        for verb in verbs:
            app[verb].group = (group,)
            app[verb].synonym = SYNONYMS.get(verb, ())
