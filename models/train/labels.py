"""What a caption says, as labels for the training-only heads of the vision tower: who is in which of the eight columns of the picture, and
the state of the street. A caption's loss alone leaves small things on a plateau: see README.md."""

import re

import numpy as np

CATEGORIES = {"person": ("red", "blue", "green", "yellow", "white", "black", "purple"), "car": ("red", "blue", "green", "yellow", "white", "black", "purple"),
              "van": ("red", "blue", "green", "yellow", "white", "black", "purple"), "bicycle": ("red", "blue", "green", "yellow", "purple"),
              "dog": ("brown", "black", "white")}
KINDS = {(c, k): i for i, (c, k) in enumerate((c, k) for c, ks in CATEGORIES.items() for k in ks)}
ACTORS = 2 * len(KINDS) + 3  # kind x facing, then parked, by the door, with a parcel
LIGHTS, WEATHERS = ("day", "evening", "night"), ("clear", "rainy", "snowy", "foggy")
STATES = len(LIGHTS) + len(WEATHERS) + 4
WIDTH = 8 * ACTORS + STATES
PATTERN = re.compile(r"(?:person in (\w+)|(\w+) (car|van|bicycle|dog)) facing (left|right) at (\d)( parked)?( by the door)?( with parcel)?")


def of(caption):
    """caption -> [WIDTH] uint8: 8 columns of ACTORS, then light, weather, door, lamp, gate, parcel."""
    v = np.zeros(WIDTH, np.uint8)
    head, _, rest = caption.partition(". ")
    light, weather = head.split(", ")
    s = 8 * ACTORS
    v[s + LIGHTS.index(light)] = 1
    v[s + len(LIGHTS) + WEATHERS.index(weather)] = 1
    for i, word in enumerate(("door open", "lamp on", "gate open", " a parcel")):
        v[s + len(LIGHTS) + len(WEATHERS) + i] = word in rest
    for m in PATTERN.finditer(rest):
        key = ("person", m[1]) if m[1] else (m[3], m[2])
        c = v[int(m[5]) * ACTORS:][:ACTORS]
        c[2 * KINDS[key] + (m[4] == "right")] = 1
        for i in range(3):
            c[2 * len(KINDS) + i] |= m[6 + i] is not None
    return v
