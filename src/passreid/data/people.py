"""Who a drawn pedestrian is: what stays the same whenever and wherever the person is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[int, int, int]

_SKINS: tuple[Colour, ...] = (
    (245, 214, 190),
    (232, 190, 160),
    (214, 166, 130),
    (180, 128, 92),
    (134, 90, 62),
    (92, 62, 46),
)
_HAIRS: Mapping[Colour, float] = {
    (28, 24, 24): 5,
    (58, 40, 30): 3,
    (104, 72, 44): 2,
    (190, 152, 96): 1.2,
    (150, 74, 38): 0.6,
    (158, 156, 154): 0.8,
}
# Streets are mostly dark, white and blue; the bright colours are what people are told apart by.
_CLOTHES: Mapping[Colour, float] = {
    (30, 31, 35): 6,
    (66, 68, 74): 2.5,
    (134, 137, 142): 2.5,
    (228, 228, 224): 4,
    (32, 44, 84): 3,
    (62, 92, 150): 2,
    (120, 166, 210): 1.5,
    (176, 34, 40): 2,
    (226, 92, 98): 1,
    (232, 164, 184): 1,
    (238, 200, 60): 1.2,
    (224, 120, 44): 1,
    (52, 120, 72): 1.2,
    (120, 132, 74): 1.2,
    (66, 182, 160): 1,
    (112, 66, 132): 1,
    (112, 80, 56): 1.5,
    (196, 170, 130): 1.5,
}
_BOTTOM_COLOURS: Mapping[Colour, float] = {
    (28, 29, 33): 6,
    (44, 58, 96): 5,
    (88, 116, 160): 2,
    (82, 84, 88): 2,
    (186, 166, 128): 2,
    (214, 212, 206): 1.5,
    (96, 78, 60): 1.2,
    (90, 98, 66): 1.2,
    (150, 40, 50): 0.6,
}
_SHOES: Mapping[Colour, float] = {
    (26, 26, 28): 4,
    (232, 232, 230): 3,
    (110, 74, 48): 2,
    (196, 46, 52): 1,
    (60, 100, 180): 1,
    (150, 210, 80): 0.5,
}
_BAGS: Mapping[Colour, float] = {
    (30, 30, 34): 4,
    (124, 78, 46): 2,
    (44, 62, 116): 2,
    (190, 44, 48): 1.5,
    (222, 180, 60): 1,
    (70, 130, 90): 1,
}
_HAIR_STYLES = {"short": 6, "long": 3, "ponytail": 1.5, "bun": 1, "bob": 1.5, "bald": 0.7}
_HATS = {"": 8, "cap": 1.2, "beanie": 0.8, "sunhat": 0.4}
_TOPS = {"tee": 5, "shirt": 3, "jacket": 3, "hoodie": 1.5, "coat": 1.2, "tank": 0.8, "dress": 1}
_PATTERNS = {"plain": 6, "stripes": 1.2, "bars": 0.6, "checks": 1, "block": 1, "print": 2}
_BOTTOMS = {"trousers": 7, "shorts": 2.5, "capri": 1, "skirt": 1.3, "long skirt": 0.6}
_BAG_KINDS = {"": 5, "backpack": 3, "shoulder bag": 2, "handbag": 1.5}


@dataclass(frozen=True)
class Appearance:
    """One person's looks; the words a field may hold are the keys of the tables above.

    Attributes:
        height: Relative to the average person.
        build: Relative width of the body.
        accent: Second colour of a pattern; what an open jacket shows underneath.
        legs: Colour of the legs where no cloth covers them: the skin, or tights.
        left_handed: Which side a bag is carried on.
    """

    height: float
    build: float
    skin: Colour
    hair: Colour
    hair_style: str
    hat: str
    hat_colour: Colour
    top: str
    top_colour: Colour
    pattern: str
    accent: Colour
    bottom: str
    bottom_colour: Colour
    legs: Colour
    shoes: Colour
    bag: str
    bag_colour: Colour
    glasses: bool
    left_handed: bool


def random_person(rng: np.random.Generator) -> Appearance:
    """Draw one person's looks; the same generator state gives the same person."""
    skin = _shade(rng, _SKINS[rng.choice(len(_SKINS), p=(0.2, 0.25, 0.25, 0.12, 0.1, 0.08))], 8)
    tights = rng.random() < 0.25
    top_colour = _pick_colour(rng, _CLOTHES)
    return Appearance(
        height=float(rng.uniform(0.92, 1.06)),
        build=float(rng.uniform(0.9, 1.26)),
        skin=skin,
        hair=_pick_colour(rng, _HAIRS),
        hair_style=_pick(rng, _HAIR_STYLES),
        hat=_pick(rng, _HATS),
        hat_colour=_pick_colour(rng, _CLOTHES),
        top=_pick(rng, _TOPS),
        top_colour=top_colour,
        pattern=_pick(rng, _PATTERNS),
        accent=_contrasting(rng, top_colour),
        bottom=_pick(rng, _BOTTOMS),
        bottom_colour=_pick_colour(rng, _BOTTOM_COLOURS),
        legs=(38, 36, 40) if tights else skin,
        shoes=_pick_colour(rng, _SHOES),
        bag=_pick(rng, _BAG_KINDS),
        bag_colour=_pick_colour(rng, _BAGS),
        glasses=bool(rng.random() < 0.2),
        left_handed=bool(rng.random() < 0.5),
    )


def look_alike(person: Appearance, rng: np.random.Generator) -> Appearance:
    """Somebody else in the same clothes: three of bag, hair, shoes, bottom and print differ."""
    other = random_person(rng)
    changes: tuple[dict[str, object], ...] = (
        {"bag": _other(rng, _BAG_KINDS, person.bag), "bag_colour": other.bag_colour},
        {"hair": other.hair, "hair_style": _other(rng, _HAIR_STYLES, person.hair_style)},
        {"shoes": _contrasting(rng, person.shoes, _SHOES)},
        {"bottom_colour": _contrasting(rng, person.bottom_colour, _BOTTOM_COLOURS)},
        {"pattern": _other(rng, _PATTERNS, person.pattern), "accent": other.accent},
    )
    fields: dict[str, object] = {"height": other.height, "build": other.build, "skin": other.skin}
    fields["legs"] = other.skin if person.legs == person.skin else person.legs
    for index in rng.choice(len(changes), size=3, replace=False):
        fields |= changes[index]
    return replace(person, **fields)  # type: ignore[arg-type]


def random_people(count: int, rng: np.random.Generator) -> list[Appearance]:
    """Draw `count` people; every fourth is a look-alike of the one before."""
    people: list[Appearance] = []
    for index in range(count):
        alike = index % 4 == 3
        people.append(look_alike(people[-1], rng) if alike else random_person(rng))
    return people


def _pick(rng: np.random.Generator, table: Mapping[str, float]) -> str:
    weights = np.array([*table.values()], dtype=float)
    return [*table][rng.choice(len(table), p=weights / weights.sum())]


def _other(rng: np.random.Generator, table: Mapping[str, float], taken: str) -> str:
    return _pick(rng, {word: weight for word, weight in table.items() if word != taken})


def _pick_colour(rng: np.random.Generator, table: Mapping[Colour, float]) -> Colour:
    weights = np.array([*table.values()], dtype=float)
    return _shade(rng, [*table][rng.choice(len(table), p=weights / weights.sum())], 10)


def _contrasting(
    rng: np.random.Generator, colour: Colour, table: Mapping[Colour, float] = _CLOTHES
) -> Colour:
    """A colour of the table that is easily told from `colour`."""
    far = {c: w for c, w in table.items() if np.abs(np.subtract(c, colour)).sum() > 130}
    return _pick_colour(rng, far)


def _shade(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """Move a colour a little: first its lightness, then each channel."""
    moved = np.array(colour) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    red, green, blue = np.clip(moved, 6, 250).astype(int).tolist()
    return red, green, blue
