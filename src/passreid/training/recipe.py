"""Fields that the recipes of fine-tuning and adapting share."""

# Not as strings: a recipe of another module that inherits these fields could not resolve them.
from dataclasses import dataclass

from passreid.card import HALF
from passreid.config import BelowOne, Finite, Positive, Probability, Share, Whole


@dataclass(frozen=True, kw_only=True)
class AugmentationRecipe:
    """How training crops are normalised and changed at random.

    Attributes:
        mean: Subtracted from each channel of pixels in [0, 1].
        std: What each channel is divided by then.
        flip: Probability that a crop is mirrored.
        pad: Zero padding before the random cut, in pixels.
        erasing: Probability that a rectangle is erased.
        zoom: Smallest share of a crop that a random cut keeps, stretched to the input; 1 is none.
        box_shift: Move and resize the box as a detector might, by up to this share of its sides;
            what lies outside the crop is black.
        jitter: Brightness and contrast change, each up to this share; 0 is none.
        colour: Change saturation, each channel's gain (colour temperature) and gamma, each by up to
            this share, as another camera might.
        grey: Probability that a rectangle loses its colour (Gong et al. 2021); a quarter as often
            the whole crop does.
        degrade: Probability that a crop loses resolution or is blurred, and as often again that it
            is compressed as JPEG.
    """

    mean: tuple[Finite, Finite, Finite] = HALF
    std: tuple[Positive, Positive, Positive] = HALF
    flip: Probability = 0.5
    pad: Whole = 10
    erasing: Probability = 0.5
    zoom: Share = 1.0
    box_shift: BelowOne = 0.0
    jitter: BelowOne = 0.0
    colour: BelowOne = 0.0
    grey: Probability = 0.0
    degrade: Probability = 0.0
