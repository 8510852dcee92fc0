"""Draw one pedestrian from any side, in any phase of a step.

The body is built in units of its own height: x to the right of the body's axis, y downwards from
the crown (0) to the soles (1). The angle turns it: 0 faces the viewer, 90 walks to the right, 180
shows the back. What lies `d` in front of the body's axis appears at x = d * sin(angle), what lies
`d` to the person's left at x = d * cos(angle).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from passreid.data.brush import Brush, Paint, Point, darker, first_part, lit, mirrored
from passreid.data.people import Appearance

HEADROOM = 0.05
_WIDTH = 0.68  # of the canvas; room for a full stride seen from the side
_SLEEVES = {"tank": 0.0, "dress": 0.35, "tee": 0.9}  # 1 = the elbow, 2 = the wrist
_TROUSERS = {"shorts": 0.75, "capri": 1.45, "trousers": 1.97}  # 1 = the knee, 2 = the ankle
_SKIRTS = {"skirt": 0.67, "long skirt": 0.86}
_HEMS = {"coat": 0.71, "dress": 0.68, "hoodie": 0.53, "jacket": 0.52}
_OPEN = ("jacket", "coat")


@dataclass(frozen=True)
class Pose:
    """How a person stands and walks.

    Attributes:
        angle: Degrees; 0 faces the viewer, 90 walks to the right, 180 shows the back.
        phase: Of the step, 0 to 1.
        stride: Length of the step; 0 stands still, 1 walks.
    """

    angle: float = 0.0
    phase: float = 0.2
    stride: float = 1.0


def draw_person(
    person: Appearance, pose: Pose | None = None, *, height: float = 128, light: float = 0.3
) -> Image.Image:
    """Draw a person on a transparent ground.

    Args:
        person: Who.
        pose: How; default: walking towards the viewer.
        height: In pixels, of a person of average height.
        light: Where the light comes from: -1 left, 0 ahead, 1 right.

    Returns:
        RGBA; the body's axis is the middle column, and above the crown and below the soles
        `HEADROOM` of the body's height is free.
    """
    pixels = height * person.height
    size = (2 * math.ceil(pixels * _WIDTH / 2), math.ceil(pixels * (1 + 2 * HEADROOM)))
    brush = Brush(*size, unit=pixels, headroom=HEADROOM)
    _Figure(person, pose or Pose(), brush).draw()
    return lit(brush.finished(), light)


class _Figure:
    """One person in one pose; each method draws one part. Side 1 is the person's left, -1 right."""

    def __init__(self, person: Appearance, pose: Pose, brush: Brush) -> None:
        self.person = person
        self.pose = pose
        self.brush = brush
        self.forward = math.sin(math.radians(pose.angle))
        self.left = math.cos(math.radians(pose.angle))
        self.cloth: Paint = brush.cloth(person.top_colour, person.accent, person.pattern)

    def draw(self) -> None:
        """Draw all parts, the far ones first."""
        near = -1 if self.forward >= 0 else 1
        from_behind = self.left < 0
        if not from_behind:
            self.backpack()
            self.hair_behind()
        for side in (-near, near):
            self.leg(side)
        self.arm(-near)
        self.skirt()
        self.torso()
        self.strap()
        self.head()
        if from_behind:
            self.backpack()
        self.arm(near)
        if abs(self.left) > 0.9:
            # Seen from the front or behind, both arms hang beside the body and hide its edge.
            self.arm(-near)
        self.bag()

    def leg(self, side: int) -> None:
        """A leg, its shoe and what of the trousers covers it."""
        person, stride = self.person, self.pose.stride
        cycle = 2 * math.pi * (self.pose.phase + (0 if side > 0 else 0.5))
        swing = 0.44 * stride * math.sin(cycle)
        bend = 0.75 * stride * max(0.0, math.sin(cycle - 1.9)) ** 2
        hip = (side * 0.047 * person.build * self.left, 0.50)
        knee = self.swung(hip, swing, 0.235)
        ankle = self.swung(knee, swing - bend, 0.225)
        heel = (ankle[0] - 0.012 * self.forward, ankle[1] + 0.018)
        toe = (ankle[0] + 0.06 * self.forward, ankle[1] + 0.024 + 0.014 * max(0.0, self.left))
        self.brush.limb((heel, toe), (0.024, 0.02), person.shoes)
        joints = (hip, knee, ankle)
        radii = (0.054 * person.build, 0.035 * person.build, 0.021)
        self.brush.limb(joints, radii, person.legs)
        covered = _TROUSERS.get(person.bottom, 0.0)
        if covered and person.top != "dress":
            points, sizes = first_part(joints, radii, covered)
            loose = [max(1.1 * size, 0.031) for size in sizes]
            self.brush.limb(points, loose, person.bottom_colour)

    def arm(self, side: int) -> None:
        """An arm and its sleeve."""
        person = self.person
        joints = self.arm_joints(side)
        radii = (0.032 * person.build, 0.027 * person.build, 0.02)
        hand = (joints[2][0] + 0.006 * self.forward, joints[2][1] + 0.018)
        self.brush.ball(hand, 0.021, 0.027, person.skin)
        self.brush.limb(joints, radii, person.skin)
        points, sizes = first_part(joints, radii, _SLEEVES.get(person.top, 1.95))
        if len(points) > 1:
            self.brush.limb(points, [1.2 * size for size in sizes], self.cloth)

    def torso(self) -> None:
        """The neck and the top, with an open front or a print where it can be seen."""
        person, brush = self.person, self.brush
        hem = _HEMS.get(person.top, 0.515)
        flare = 1.3 if hem > 0.6 else 1.04
        shoulder, waist, hip = self.wide(0.116, 0.07), self.wide(0.09, 0.066), self.wide(0.1, 0.078)
        brush.limb(((0, 0.12), (0.004 * self.forward, 0.17)), (0.033, 0.036), person.skin)
        right = [
            (0.034, 0.16),
            (shoulder * 0.8, 0.176),
            (shoulder * 0.97, 0.2),
            (shoulder, 0.235),
            (shoulder * 0.92, 0.3),
            (waist, 0.39),
            (hip, 0.47),
            (hip * flare, hem),
        ]
        brush.shape(mirrored(right), self.cloth)
        chest = 0.055 * self.forward
        if person.top in _OPEN and self.left > 0.2:
            half = 0.036 * self.left
            front = [(half * 0.8, 0.165), (half, min(hem, 0.51))]
            brush.shape(mirrored(front, x=chest), person.accent)
        elif person.pattern == "print" and self.left > 0.25:
            half = 0.056 * self.left
            brush.shape(mirrored([(half, 0.25), (half, 0.33)], x=chest), person.accent)
        if person.top == "hoodie":
            hood = self.wide(0.064, 0.06)
            brush.ball((-0.03 * self.forward, 0.168), hood, 0.026, darker(person.top_colour, 0.8))

    def skirt(self) -> None:
        """A skirt, wider where it swings with the step."""
        hem = _SKIRTS.get(self.person.bottom)
        if hem is None or self.person.top == "dress":
            return
        hip = self.wide(0.1, 0.078)
        wide = 1.28 * hip + 0.04 * abs(self.forward) * self.pose.stride
        right = [(hip * 0.9, 0.45), (hip * 1.06, 0.52), (wide, hem)]
        self.brush.shape(mirrored(right), self.person.bottom_colour)

    def head(self) -> None:
        """Face, hair, hat."""
        x, y = 0.012 * self.forward, 0.078
        wide = self.wide(0.046, 0.054) / self.person.build
        self.brush.ball((x, y), wide, 0.069, self.person.skin)
        if self.left > -0.4:
            self.face(x, y)
        if self.person.hair_style != "bald":
            self.hair(x, y, wide)
        self.hat(x, y, wide)

    def face(self, x: float, y: float) -> None:
        """Eyes, glasses, mouth: a pixel or so each at the usual size."""
        person = self.person
        dark = darker(person.skin, 0.5)
        for side in (-1, 1):
            if self.left > 0.3 or side * self.forward > 0:
                eye = x + 0.044 * self.forward + side * 0.019 * max(self.left, 0.0)
                if person.glasses:
                    self.brush.ball((eye, y), 0.013, 0.010, (34, 34, 38))
                else:
                    self.brush.ball((eye, y), 0.008, 0.005, dark)
        mouth = (x + 0.04 * self.forward, y + 0.036)
        self.brush.ball(mouth, 0.014 * max(self.left, 0.4), 0.004, dark)

    def hair(self, x: float, y: float, wide: float) -> None:
        """Hair on the skull: from behind all of it, from the side the rear half."""
        style, colour, brush = self.person.hair_style, self.person.hair, self.brush
        back = x - 0.02 * self.forward
        behind = max(0.0, -self.left)
        brush.ball((back, y - 0.042 + 0.03 * behind), wide * 1.06, 0.032 + 0.036 * behind, colour)
        if abs(self.forward) > 0.35:
            rear = x - 0.034 * self.forward
            brush.ball((rear, y - 0.01), wide * 0.6, 0.054, colour)
        if self.left <= 0:
            self.hair_behind()
        if style == "bun":
            brush.ball((x - 0.05 * self.forward, y - 0.072), 0.03, 0.026, colour)
        if style == "ponytail" and self.left < 0.35:
            root, tip = x - 0.056 * self.forward, x - 0.085 * self.forward
            brush.limb(((root, y - 0.02), (tip, y + 0.12)), (0.024, 0.014), colour)

    def hair_behind(self) -> None:
        """Hair that falls on the shoulders: before the body from behind, else past the neck."""
        length = {"long": 0.25, "bob": 0.155}.get(self.person.hair_style)
        if length is not None:
            wide = self.wide(0.057, 0.036) / self.person.build
            right = [(wide * 0.7, 0.03), (wide, 0.09), (wide * 0.98, length)]
            self.brush.shape(mirrored(right, x=-0.026 * self.forward), self.person.hair)

    def hat(self, x: float, y: float, wide: float) -> None:
        """A cap, a beanie or a sunhat."""
        hat, colour, brush = self.person.hat, self.person.hat_colour, self.brush
        if not hat:
            return
        if hat == "sunhat":
            brush.ball((x, y - 0.03), wide * 2.0, 0.019, darker(colour, 0.85))
        height = 0.05 if hat == "beanie" else 0.042
        brush.ball((x - 0.006 * self.forward, y - 0.036), wide * 1.15, height, colour)
        if hat == "cap" and self.left > -0.5:
            brim = (x + 0.06 * self.forward, y - 0.014 + 0.006 * self.left)
            brush.ball(brim, 0.036 + 0.012 * self.left, 0.011, darker(colour, 0.8))

    def backpack(self) -> None:
        """A backpack: whole from behind, a bulge from the side."""
        if self.person.bag != "backpack":
            return
        x, colour = -0.1 * self.forward, self.person.bag_colour
        wide = self.wide(0.09, 0.05)
        right = [(wide * 0.6, 0.17), (wide, 0.205), (wide * 1.04, 0.41), (wide * 0.85, 0.445)]
        self.brush.shape(mirrored(right, x=x), colour)
        if self.left < -0.3:
            pocket = [(wide * 0.66, 0.325), (wide * 0.66, 0.42)]
            self.brush.shape(mirrored(pocket, x=x), darker(colour, 0.8))

    def strap(self) -> None:
        """What holds a bag, over the torso."""
        person = self.person
        if person.bag == "backpack" and self.left > -0.2:
            for side in (-1, 1):
                x = side * 0.07 * person.build * self.left + 0.012 * self.forward
                self.brush.limb(((x, 0.178), (x * 1.1, 0.33)), (0.011, 0.011), person.bag_colour)
        if person.bag == "shoulder bag":
            across = self.carrier() * person.build * self.left
            ends = ((-0.07 * across, 0.176), (0.1 * across, 0.45))
            self.brush.limb(ends, (0.008, 0.008), person.bag_colour)

    def bag(self) -> None:
        """A bag at the hip or in the hand, unless the body hides it."""
        person, side = self.person, self.carrier()
        hidden = side * self.forward > 0.5
        if person.bag == "shoulder bag" and not hidden:
            wide = self.wide(0.05, 0.072)
            x = side * 0.125 * person.build * self.left - 0.02 * self.forward
            self.brush.shape(mirrored([(wide, 0.44), (wide * 1.06, 0.545)], x=x), person.bag_colour)
        if person.bag == "handbag" and not hidden:
            x, y = self.arm_joints(side)[2]
            wide = self.wide(0.042, 0.075)
            grip = ((x - wide * 0.5, y + 0.08), (x, y + 0.025), (x + wide * 0.5, y + 0.08))
            self.brush.limb(grip, (0.006, 0.006, 0.006), person.bag_colour)
            body = [(wide * 0.75, y + 0.075), (wide, y + 0.165)]
            self.brush.shape(mirrored(body, x=x), person.bag_colour)

    def carrier(self) -> int:
        """The side on which a bag is carried."""
        return 1 if self.person.left_handed else -1

    def arm_joints(self, side: int) -> tuple[Point, Point, Point]:
        """Shoulder, elbow and wrist; arms swing against the legs."""
        cycle = 2 * math.pi * (self.pose.phase + (0.5 if side > 0 else 0))
        swing = 0.38 * self.pose.stride * math.sin(cycle)
        shoulder = (side * 0.1 * self.person.build * self.left, 0.214)
        x, y = self.swung(shoulder, swing, 0.15)
        elbow = (x + side * 0.024 * self.left, y)
        x, y = self.swung(elbow, swing + 0.25 + 0.3 * max(0.0, swing), 0.14)
        return shoulder, elbow, (x + side * 0.004 * self.left, y)

    def swung(self, start: Point, angle: float, length: float) -> Point:
        """The end of a limb swung forward by `angle` radians.

        A street camera looks from a little above: what is nearer to it lies lower in the picture.
        """
        reach = length * math.sin(angle)
        x = start[0] + reach * self.forward
        return x, start[1] + length * math.cos(angle) + 0.14 * reach * self.left

    def wide(self, front: float, side: float) -> float:
        """Half width of a body part with these half widths from the front and from the side."""
        return self.person.build * math.hypot(front * self.left, side * self.forward)
