"""How a published data set is laid out on disk, as data: folders, names, lists, protocol, size."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

Groups = dict[str, str]
Counts = Mapping[str, tuple[int, int]]


class Shot(NamedTuple):
    """One picture of a drawn set: person, camera, number of the picture and frame, from 0."""

    person: int
    camera: int
    number: int
    frame: int
    subset: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    r"""How a published data set lies on disk.

    Attributes:
        source: The paper its sizes and protocol come from.
        folders: Folder below the root -> ``train``, ``query``, ``gallery``; ``test`` where queries
            are yet to be chosen, ``pool`` where the protocol draws queries and gallery at random.
        name: Regular expression for the end of a file's path, or with ^ all of it, up to the rest
            of the file's name. Groups: ``pid`` (-1 is junk), ``cam``, ``clothes``, ``tracklet``; a
            2 after them is dropped.
        drawn: Template of a file's path, for messages and drawn sets. It knows ``folder``,
            ``side`` (a camera's folder), ``pid``, ``cam`` and ``outfit`` from 1, ``letter`` (the
            camera as A, B, …), ``n`` (the picture of that camera, from 0), ``every`` (the picture
            of that person, from 1) and ``frame`` (of a tracklet, from 1).
        drawn_train: The same for training images, where it is another.
        cameras, pictures: How many of a person the files can express: the fewest and most cameras,
            the most pictures by each.
        frames: Images in a drawn tracklet.
        outfits: What drawn people wear before camera 0, 1, … and over again.
        counts: Subset -> (people, images or tracklets) as published, 0 where not stated; people
            without distractors, images without junk.
        certain: Folders that no other set has: they settle the kind whatever the files are called.
        root: Regular expression the root's own name must contain, unless a list is there.
        lists: Subset -> text files with a path on each line, or a path and a pid.
        lists_name_people: The lists hold pids and must be there.
        derive: Completes or corrects the groups of a name.
        halves: People are split at random, half for training, and scores averaged over 10 splits.
        single_shot: The gallery holds one image of each person, drawn at random, 10 times.
        notes: What a reader of a result should know.
    """

    source: str
    folders: Mapping[str, str]
    name: str
    drawn: str
    drawn_train: str = ""
    cameras: tuple[int, int] = (1, 99)
    pictures: int = 10
    frames: int = 1
    outfits: tuple[int, ...] = (0,)
    counts: Counts = field(default_factory=dict)
    certain: tuple[str, ...] = ()
    root: str = ""
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lists_name_people: bool = False
    derive: Callable[[Groups], Groups] = dict
    halves: bool = False
    single_shot: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        before = "" if self.name.startswith("^") else "(?:.*/)?"
        return re.compile(rf"{before}(?:{self.name})[^/]*", re.DOTALL)

    def parse(self, path: str) -> Groups | None:
        """Read the labels off a path relative to the root; None where it has none."""
        found = self._compiled.fullmatch(path)
        if found is None:
            return None
        named = {k.rstrip("2"): v for k, v in found.groupdict().items() if v is not None}
        return self.derive(named)

    def path(self, shot: Shot) -> str:
        """Fill the template of a picture's path."""
        template = self.drawn_train if shot.subset == "train" else ""
        folders = self.folders.items()
        return (template or self.drawn).format(
            folder=next((f for f, meant in folders if meant in (shot.subset, "test")), shot.subset),
            side=[*self.folders, *string.digits][shot.camera % 10],
            pid=shot.person + 1,
            cam=shot.camera + 1,
            letter=string.ascii_uppercase[shot.camera % 26],
            outfit=self.outfits[shot.camera % len(self.outfits)] + 1,
            n=shot.number,
            every=shot.camera * self.pictures + shot.number + 1,
            frame=shot.frame + 1,
        )

    @property
    def example(self) -> str:
        """A file's path, for messages."""
        return self.path(Shot(1, 0, 0, 0, "query"))

    @property
    def splits(self) -> int:
        """How many random splits the protocol averages over."""
        return 10 if self.halves or self.single_shot else 1

    @property
    def looks_for(self) -> str:
        """Say what a folder of this kind holds."""
        wanted = [*self.folders, *(name for names in self.lists.values() for name in names)]
        shown = ", ".join(wanted[:4]) + (", …" if len(wanted) > 4 else "")
        return f"{shown} with names like {self.example} ({self.source})"
