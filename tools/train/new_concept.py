#!/usr/bin/env python3
"""Draws ten pictures of a thing that emoji-64 has never seen, with captions, to teach it by `unmist train`.

    python tools/train/new_concept.py target/zorp
"""

import json
import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "white": (255, 255, 255), "red": (220, 45, 45), "orange": (247, 150, 40), "yellow": (252, 215, 70),
    "green": (70, 170, 85), "blue": (60, 120, 225), "pink": (248, 160, 195), "brown": (135, 90, 55),
    "black": (28, 28, 32), "gray": (150, 150, 155),
}  # fmt: skip
SCALE = 8


def zorp(background, turn):
    """A violet hexagon with one yellow eye and three legs, 64 x 64."""
    size = 64 * SCALE
    picture = Image.new("RGB", (size, size), background)
    draw = ImageDraw.Draw(picture)
    middle, radius = size / 2, size * 0.33
    for leg in (-1, 0, 1):
        x = middle + leg * size * 0.16
        draw.line([(x, middle + radius * 0.6), (x + leg * size * 0.06, size * 0.92)], (70, 30, 110), 4 * SCALE)
    angles = [turn + i * math.pi / 3 for i in range(6)]
    corners = [(middle + radius * math.cos(a), middle - size * 0.04 + radius * math.sin(a)) for a in angles]
    draw.polygon(corners, (130, 60, 200), (70, 30, 110))
    eye = radius * 0.42
    centre = (middle, middle - size * 0.06)
    draw.ellipse([centre[0] - eye, centre[1] - eye, centre[0] + eye, centre[1] + eye], (250, 220, 60), (70, 30, 110))
    draw.ellipse([centre[0] - eye / 3, centre[1] - eye / 3, centre[0] + eye / 3, centre[1] + eye / 3], (20, 20, 30))
    return picture.resize((64, 64), Image.BOX)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (name, colour) in enumerate(COLOURS.items()):
        zorp(colour, 0.1 * (i % 3 - 1)).save(folder / f"{name}.png")
        lines.append(json.dumps({"file_name": f"{name}.png", "text": f"flat zorp, {name} background"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
