"""How far one gets without a model: the squared difference from the mean of normal pictures, as AUROC.

    python tools/anomaly/draw.py target/anomaly --normal 100 --anomalous 100 --train 1000
    python tools/anomaly/baseline.py target/anomaly
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image


KINDS = ("normal", "anomalous")


def read(path):
    return np.asarray(Image.open(path)) / 127.5 - 1.0


def auroc(normal, anomalous):
    """The share of pairs in which the anomalous one scores more; equal ones count half."""
    normal = np.sort(normal)
    below = np.searchsorted(normal, anomalous, "left") + np.searchsorted(normal, anomalous, "right")
    return below.mean() / 2 / len(normal)


def main():
    folder = Path(sys.argv[1])
    mean = np.mean([read(path) for path in sorted((folder / "train").glob("*.png"))], axis=0)
    maps = {path: (read(path) - mean) ** 2 for path in sorted((folder / "test").glob("*/*.png"))}
    masks = {path: folder / "masks" / path.parent.name / path.name for path in maps}
    masks = {path: read(mask) > 0 if mask.exists() else np.zeros((32, 32), bool) for path, mask in masks.items()}
    values, lesion = (np.stack(list(each.values())) for each in (maps, masks))
    print(f"of pixels {auroc(values[~lesion], values[lesion]):.4f}")
    for name, score in [("mean", np.mean), ("98th percentile", lambda each: np.percentile(each, 98))]:
        of = {kind: [score(each) for path, each in maps.items() if path.parent.name == kind] for kind in KINDS}
        print(f"of pictures by {name} {auroc(of['normal'], np.array(of['anomalous'])):.4f}")


if __name__ == "__main__":
    main()
