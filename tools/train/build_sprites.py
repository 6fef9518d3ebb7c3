"""Renders every emoji of four drawing sets at 64x64: target/train/sprites.npz and sprites.json.

    mkdir -p target/train/npm && cd target/train/npm
    npm pack @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 @iconify-json/fluent-emoji-flat@1.2.6 \\
             @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0          # 28 MB
    cd ../../.. && python tools/train/build_sprites.py                     # about a minute

sprites.npz: `rgba` uint8 [N, 64, 64, 4].  sprites.json: for each sprite its set, code points, label, tags, subgroup,
group and skin tone (0: none).  Noto Emoji is Apache-2.0 (Google), Twemoji CC-BY-4.0 (Twitter and contributors), Fluent
Emoji MIT (Microsoft); the names are Unicode CLDR's as packed by emojibase (MIT).
"""

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from trainer import BUILD

SIZE = 64
VECTOR_SETS = {
    "noto": "iconify-json-noto-",
    "twemoji": "iconify-json-twemoji-",
    "fluent-flat": "iconify-json-fluent-emoji-flat-",
}
BITMAP_SETS = {"fluent-3d": "lobehub-fluent-emoji-3d-"}
NAMES = "emojibase-data-"


def open_package(folder, prefix):
    found = sorted(folder.glob(f"{prefix}*.tgz"))
    if len(found) != 1:
        raise SystemExit(f"{folder}: expected one {prefix}*.tgz (see the npm pack line above), found {len(found)}")
    return tarfile.open(found[0])


def read_json(package, name):
    return json.load(package.extractfile(f"package/{name}"))


def code_points(text):
    """Lower-case hexadecimal code points without the variation selector, the same key in every set."""
    return text.lower().replace("-fe0f", "")


def read_names(package):
    """code points -> label, tags, group, subgroup, tone."""
    messages = read_json(package, "en/messages.json")
    groups = {g["order"]: g["message"] for g in messages["groups"]}
    subgroups = {g["order"]: g["message"] for g in messages["subgroups"]}
    names = {}
    for emoji in read_json(package, "en/data.json"):
        entry = {
            "label": emoji["label"],
            "tags": emoji.get("tags", []),
            "group": groups.get(emoji.get("group"), "?"),
            "subgroup": subgroups.get(emoji.get("subgroup"), "?"),
            "tone": 0,
        }
        names[code_points(emoji["hexcode"])] = entry
        for skin in emoji.get("skins", []):
            names[code_points(skin["hexcode"])] = {**entry, "label": skin["label"], "tone": skin.get("tone", 0)}
    return names


def vector_drawings(package):
    """(code points, RGBA picture) for each icon of an Iconify set."""
    icons = read_json(package, "icons.json")
    aliases = icons.get("aliases", {})
    for points, name in read_json(package, "chars.json").items():
        while name in aliases and "rotate" not in aliases[name] and "hFlip" not in aliases[name]:
            name = aliases[name]["parent"]
        if name not in icons["icons"]:
            continue
        icon = icons["icons"][name]
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" width="{width}" height="{height}">'
            f"{icon['body']}</svg>"
        )
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
        yield points, Image.open(io.BytesIO(png)).convert("RGBA")


def bitmap_drawings(package):
    for member in sorted(package.getnames()):
        if member.endswith(".webp"):
            yield Path(member).stem, Image.open(io.BytesIO(package.extractfile(member).read())).convert("RGBA")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, default=BUILD / "npm", help="folder of the npm packages (.tgz)")
    parser.add_argument("--output", type=Path, default=BUILD)
    options = parser.parse_args()

    names = read_names(open_package(options.packages, NAMES))
    sprites, entries = [], []
    for drawings, sets in ((vector_drawings, VECTOR_SETS), (bitmap_drawings, BITMAP_SETS)):
        for set_name, prefix in sets.items():
            seen = set()
            for points, picture in drawings(open_package(options.packages, prefix)):
                key = code_points(points)
                pixels = np.asarray(
                    picture if picture.size == (SIZE, SIZE) else picture.resize((SIZE, SIZE), Image.BOX)
                )
                if key in seen or key not in names or not pixels[..., 3].any():
                    continue
                seen.add(key)
                sprites.append(pixels)
                entries.append({"set": set_name, "code_points": key, **names[key]})
            print(f"{set_name}: {len(seen)} sprites", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.output / "sprites.npz", rgba=np.stack(sprites))
    (options.output / "sprites.json").write_text(json.dumps(entries))


if __name__ == "__main__":
    main()
