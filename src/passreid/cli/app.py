"""The app all verbs register with, the options they share, and how they speak."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter
from cyclopts.config import Dict
from rich.console import Console

from passreid.config import build, read_toml
from passreid.errors import CalibrationError, ImageError, UsageError
from passreid.listing import escape_controls
from passreid.verify import usable_calibration

if TYPE_CHECKING:
    from cyclopts.argument import ArgumentCollection

    from passreid.embed import Embedder
    from passreid.openset import Calibration

DEFAULT_MODEL = "passreid-tiny"
"""The bundled model every verb uses unless told otherwise."""


def _recipe_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Let a recipe supply the options that the command line does not give.

    The recipe is that of `--config`, else the one a run to `--resume` was started with. Its `data`
    and `output` are left to the command.
    """
    given = {argument.name: argument.tokens for argument in arguments if argument.tokens}
    path = None
    if "--config" in given:
        path = Path(given["--config"][0].value)
    elif "--resume" in given:
        run = given.get("--output") or given.get("DATA") or given.get("IMAGES")
        path = Path(run[0].value) / "config.toml" if run else None
        path = path if path and path.is_file() else None
    if path is not None:
        read = read_toml(path)
        values = {key: value for key, value in read.items() if key not in ("data", "output")}
        build(_recipe_of(commands[-1]), values, where=str(path))
        Dict(values, source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def _recipe_of(verb: str) -> type[Any]:
    """Return the dataclass a verb's recipe files are checked against."""
    from passreid.adapting.recipe import AdaptRecipe
    from passreid.finetuning.recipe import FinetuneRecipe
    from passreid.pretraining.recipe import PretrainRecipe

    return {"adapt": AdaptRecipe, "finetune": FinetuneRecipe, "pretrain": PretrainRecipe}[verb]


def _worth_showing(default: Any) -> Any:
    """Show a default in help unless it is "not given" or "off"."""
    return None if default in (None, False, (), []) else default


GROUPS = {
    Group("Start", sort_key=0): ("demo", "synthetic", "doctor", "--install-completion"),
    Group("Use", sort_key=1): ("embed", "compare", "rank", "video"),
    Group("Gallery", sort_key=2): ("gallery", "serve"),
    Group("Measure", sort_key=3): ("evaluate", "calibrate", "bench"),
    Group("Train", sort_key=4): ("finetune", "adapt", "pretrain", "average", "data"),
    Group("Models", sort_key=5): ("models", "convert", "export"),
}
"""Verbs by what people want of them, in the order of `--help`."""

SYNONYMS = {
    "rank": ("search", "find"),
    "gallery": ("search", "enrol", "enroll", "add", "index"),
    "compare": ("match", "verify"),
    "embed": ("extract", "encode", "features"),
    "evaluate": ("test", "eval"),
    "finetune": ("train", "fit"),
    "video": ("track", "detect"),
}
"""Verbs of other tools, for the suggestion where somebody types one of them."""

Output = Annotated[Path, Parameter(alias="-o")]
"""Where a verb writes."""

app = App(
    name="passreid",
    help="Person re-identification: embed, compare, rank and evaluate pictures of people.",
    version=importlib.metadata.version("passreid"),
    config=_recipe_file,
    default_parameter=Parameter(
        negative_iterable=(), negative_none=(), show_default=_worth_showing
    ),
    suppress_keyboard_interrupt=False,  # `run` says that it stopped
    help_epilogue=(
        "Every verb also takes -q (--quiet: no remarks on stderr, results and errors alone) and -v "
        "(--verbose: log lines as well). Exit codes: 0 done, 1 a failure the message explains, 2 "
        "wrong usage."
    ),
)
# Names are shown as they are: `:dog:` in a path is no picture of one.
console = Console(highlight=False, emoji=False)
quiet = Event()
"""Set while a command line with --quiet runs."""


_UNSAID = Parameter(group=Group("Weight files that do not say", sort_key=91))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What a weight file does not say of its network; without them it is assumed, and reported.

    Attributes:
        image_size: Input height and width; positions of another input are resampled to it.
        stride: Rows and columns between patches.
        heads: Attention heads.
        feature: Which side of the neck is the embedding.
        fusion: How CLS and parts become one embedding.
        pooling: What stands for the image: CLS, a pooling of the patches, or TransReID's branches.
        mean: Mean of each RGB channel, of pixels in 0 to 1.
        std: Standard deviation of each channel.
        interpolation: How pictures are resized.
        sie_camera: Camera (from 0) whose embedding a TransReID model with side information adds.
        sie_weight: Factor of that embedding.
    """

    image_size: Annotated[tuple[int, int] | None, _UNSAID] = None
    stride: Annotated[tuple[int, int] | None, _UNSAID] = None
    heads: Annotated[int | None, _UNSAID] = None
    feature: Annotated[Literal["before", "after", "normalized"] | None, _UNSAID] = None
    fusion: Annotated[Literal["cat", "mean"] | None, _UNSAID] = None
    pooling: Annotated[Literal["cls", "avg", "max", "avg_max", "gem", "jpm"] | None, _UNSAID] = None
    mean: Annotated[tuple[float, float, float] | None, _UNSAID] = None
    std: Annotated[tuple[float, float, float] | None, _UNSAID] = None
    interpolation: Annotated[Literal["bilinear", "bicubic"] | None, _UNSAID] = None
    sie_camera: Annotated[int | None, _UNSAID] = None
    sie_weight: Annotated[float | None, _UNSAID] = None

    def overrides(self) -> dict[str, Any]:
        """Return those that were given, as arguments of `load_checkpoint`."""
        values = ((f.name, getattr(self, f.name)) for f in fields(ReadingOptions))
        return {name: value for name, value in values if value is not None}


@Parameter(name="*", group=Group("Model", sort_key=90))
@dataclass(frozen=True, kw_only=True)
class ModelOptions(ReadingOptions):
    """Which model embeds, and how.

    Attributes:
        model: A bundled name, a model folder, a weight file, a ModelScope or Hugging Face id.
        backend: What runs the network; auto takes ONNX Runtime where the model folder allows it.
        device: auto, cpu, cuda or mps.
        precision: float32 is exact; auto is bfloat16 where the hardware has it; int8 reads the file
            that export wrote.
        batch_size: Crops at a time.
        flip: Average with the embedding of the mirrored crop (twice the work, a little better).
    """

    model: Annotated[str, Parameter(alias="-m")] = DEFAULT_MODEL
    backend: Literal["auto", "onnx", "openvino", "torch"] = "auto"
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16", "int8", "auto"] = "float32"
    batch_size: int = 32
    flip: bool = False

    def load(self) -> Embedder:
        """Load the embedder these options describe."""
        from passreid.embed import load

        return load(
            self.model,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            flip=self.flip,
            **self.overrides(),
        )


OnError = Annotated[
    Literal["raise", "skip"],
    Parameter(help="Stop at the first unreadable picture, or leave it out, list it and exit 1."),
]


def say(text: str) -> None:
    """Print a line for people to stdout."""
    console.print(_without_controls(text), soft_wrap=True)


def note(text: str) -> None:
    """Print a remark to stderr, so that it never mixes with results; nothing with --quiet."""
    if not quiet.is_set():
        sys.stderr.write(f"{_without_controls(text)}\n")


def complain(text: str, *, code: int) -> int:
    """Print an error to stderr and return the exit code."""
    sys.stderr.write(f"{_without_controls(f'error: {text}')}\n")
    return code


def _without_controls(text: str) -> str:
    """Escape what a file's or person's name could do to a terminal; line breaks stay."""
    return "\n".join(map(escape_controls, text.split("\n")))


def say_json(value: Mapping[str, Any]) -> None:
    """Print one object on one line, in ASCII: stdout may have any encoding, names any bytes."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def report_skipped(skipped: Iterable[tuple[str, str]]) -> int:
    """List what was left out; 1 when there was anything, else 0."""
    rows = list(skipped)
    if not rows:
        return 0
    note(f"Skipped {len(rows)} picture{'s' if len(rows) > 1 else ''}:")
    for name, reason in rows:
        note(f"  {name}: {reason}")
    return 1


def expand(sources: Sequence[str]) -> list[str]:
    """Turn folders into the pictures in them; files and addresses stay as they are.

    Raises:
        UsageError: Nothing or an empty name was given, or a folder holds no picture.
    """
    from passreid.listing import find_images

    if not sources or "" in sources:
        raise UsageError("No picture was given; name files, folders or https addresses.")
    found: list[str] = []
    for source in sources:
        found += map(str, find_images(source)) if Path(source).is_dir() else [source]
    return found


@contextmanager
def skippable(many: bool) -> Iterator[None]:
    """Let an error over one picture of many say how to go on without it."""
    try:
        yield
    except ImageError as error:
        if not many:
            raise
        reason = f"{error.reason}; --on-error skip leaves such pictures out"
        raise ImageError(error.source, reason) from None


def check_writable(path: Path | None, *, suffix: str) -> None:
    """Refuse an output that cannot be written before hours of work, not after.

    Raises:
        UsageError: The folder is missing or not writable, or the suffix is another one.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise UsageError(f"{path}: the output must end in {suffix}.")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist; make it first.")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: cannot be written; choose another output.")


def check_folder(path: Path) -> None:
    """Refuse a model's output folder that cannot be written, as `check_writable` does a file.

    Raises:
        UsageError: It is a file, lies in one, may not be written to, or could not be loaded, as a
            bundled model of its name comes first.
    """
    from passreid.hub import bundled

    if str(path) in bundled():
        raise UsageError(f"{path}: is the name of a bundled model; choose another output.")
    place = path.absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{path}: cannot be a folder to write to; choose another output.")


def calibration_of(embedder: Embedder, *, centred: bool = False) -> Calibration | None:
    """Return the model's calibration, and note why where it cannot be used or is not the user's."""
    if embedder.calibration is None:
        return None
    try:
        calibration = usable_calibration(embedder, centred=centred)
    except CalibrationError as error:
        note(f"{error} Probabilities and false match rates are left out.")
        return None
    if calibration.origin == "model":
        note(
            f"Error rates are those of the model on {calibration.data}; on other cameras they are "
            "higher. `passreid calibrate` on your own crops, labelled or not, gives yours."
        )
    return calibration
