"""The pictures and captions of emoji-64: which drawings, on which backgrounds, described how.

python tools/train/emoji_data.py        # prints the set and some captions
"""

import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from trainer import BUILD

COLOURS = {
    "white": (255, 255, 255),
    "red": (220, 45, 45),
    "orange": (247, 150, 40),
    "yellow": (252, 215, 70),
    "green": (70, 170, 85),
    "blue": (60, 120, 225),
    "purple": (145, 80, 200),
    "pink": (248, 160, 195),
    "brown": (135, 90, 55),
    "black": (28, 28, 32),
    "gray": (150, 150, 155),
}
STYLES = {"twemoji": "flat", "fluent-3d": "3d"}  # drawing set -> its word in captions
STYLE_LEFT_OUT = {"flat": 0.02, "3d": 0.4}  # share of captions; so a prompt without a style means 3d
STYLE_SHARE = {"flat": 1 / 3, "3d": 2 / 3}  # of the training samples
CONCEPTS = Path(__file__).with_name("emoji_concepts.txt")


def load_sprites(folder=BUILD):
    """All drawings without a skin tone: rgba u8 [N, 64, 64, 4] and one entry each.

    `entry["style"]` is the style word of a drawing in the text-to-image set and None for the rest, which only the
    autoencoder sees; `entry["synonyms"]` are tags that no other concept of the set has.
    """
    rgba = np.load(folder / "sprites.npz")["rgba"]
    entries = json.loads((folder / "sprites.json").read_text())
    keep = [i for i, e in enumerate(entries) if e["tone"] == 0 and e["group"] not in ("flags", "?", "symbols")]
    rgba, entries = rgba[keep], [entries[i] for i in keep]

    concepts = set(CONCEPTS.read_text(encoding="utf-8").splitlines())
    owners = defaultdict(set)  # word -> the concepts it could mean
    for entry in entries:
        entry["style"] = STYLES.get(entry["set"]) if entry["label"] in concepts else None
        if entry["style"]:
            for word in {*entry["tags"], entry["label"]}:
                owners[word.lower()].add(entry["label"])
    for entry in entries:
        entry["name"] = entry["label"].lower().replace("’", "'")
        entry["synonyms"] = [
            tag.lower()
            for tag in entry["tags"]
            if entry["style"]
            and len(owners[tag.lower()]) == 1
            and re.fullmatch(r"[a-z -]{3,24}", tag.lower())
            and tag.lower() != entry["name"]
        ]
    return rgba, entries


def is_held_out(name, colour):
    """One (thing, background) pair in twelve, never one with white, is held out of training to test composition."""
    digest = hashlib.md5(f"{name}|{colour}".encode()).hexdigest()
    return colour != "white" and int(digest, 16) % 12 == 0


def composite(rgba, backgrounds, mirrored=None):
    """Sprites u8 [B, 64, 64, 4] over flat backgrounds [B, 3] in 0..255 -> f32 [B, 3, 64, 64] in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(rgba)).float() / 255
    alpha, ground = pixels[..., 3:], torch.as_tensor(backgrounds).float()[:, None, None] / 255
    pictures = (pixels[..., :3] * alpha + ground * (1 - alpha)).permute(0, 3, 1, 2)
    if mirrored is not None:
        pictures = torch.where(torch.as_tensor(mirrored)[:, None, None, None], pictures.flip(3), pictures)
    return pictures * 2 - 1


def shaded(colour, rng, spread):
    """A colour near the named one; white stays pure."""
    base = np.array(COLOURS[colour], np.float32)
    return base if colour == "white" else np.clip(base + rng.uniform(-spread, spread, 3), 0, 255)


def prompt(name, style=None, colour=None):
    """The plain form: `3d cat face, blue background`."""
    return " ".join(filter(None, [style, name])) + (f", {colour} background" if colour else "")


def random_caption(entry, colour, rng):
    """A caption in one of many wordings; one in twelve is empty, for classifier-free guidance."""
    if rng.random() < 0.08:
        return ""
    name = entry["name"]
    if entry["synonyms"] and rng.random() < 0.05:
        name = entry["synonyms"][rng.integers(len(entry["synonyms"]))]
    elif entry["subgroup"] == "mammals" and rng.random() < 0.25:
        name = name.removesuffix(" face")
    text = prompt(name, None if rng.random() < STYLE_LEFT_OUT[entry["style"]] else entry["style"])
    if rng.random() < 0.3:
        text = ("an " if text[0] in "aeiou" else "a ") + text
    if colour == "white" and rng.random() < 0.5:
        return text
    return text + (f", {colour} background" if rng.random() < 0.85 else f" on a {colour} background")


def main():
    _, entries = load_sprites()
    drawn = [e for e in entries if e["style"]]
    concepts = {e["label"] for e in drawn}
    print(f"{len(entries)} drawings, {len(drawn)} of them in the text-to-image set of {len(concepts)} concepts")
    rng = np.random.default_rng(0)
    for _ in range(20):
        entry, colour = drawn[rng.integers(len(drawn))], list(COLOURS)[rng.integers(len(COLOURS))]
        print(
            repr(random_caption(entry, colour, rng)),
            "held out" if is_held_out(entry["label"], colour) else "",
            entry["synonyms"],
        )


if __name__ == "__main__":
    main()
