"""Draws tissue-like grey pictures, 32 x 32: normal ones, and others with lesions, whose place is known.

    python tools/anomaly/draw.py target/anomaly --normal 64 --anomalous 64

writes `test/normal`, `test/anomalous` and `masks/anomalous`, and with `--train N` also `train`. An organ has a bright
rim, folds of two tones and two dark chambers; a lesion is a soft blob that is brighter or darker than what it covers.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def smooth_noise(rng, cells):
    """A surface [32, 32] with about `cells` hills in a row, of mean 0 and standard deviation 1."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE) * SIDE] * 2))
    spectrum = np.fft.fft2(rng.standard_normal((SIDE, SIDE))) * np.exp(-((frequency / cells) ** 2))
    surface = np.fft.ifft2(spectrum).real
    return (surface - surface.mean()) / surface.std()


def edge(distance, width=0.08):
    """From 0 outside to 1 inside, for a distance that is negative inside."""
    return 1 / (1 + np.exp(np.clip(distance / width, -40, 40)))


def normal_picture(rng):
    """A picture [32, 32] from 0 to 1, and where its organ is, inside of the rim."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE * 2 - 1
    x, y = x - rng.uniform(-0.08, 0.08), y - rng.uniform(-0.08, 0.08)
    turn = rng.uniform(-0.35, 0.35)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    a, b = rng.uniform(0.64, 0.74), rng.uniform(0.76, 0.88)
    radius = np.hypot(u / a, v / b)
    tissue = 0.48 + 0.1 * np.tanh(1.5 * smooth_noise(rng, rng.uniform(4, 5.5)))
    picture = tissue + 0.015 * smooth_noise(rng, 12)
    spread, height = rng.uniform(0.13, 0.18), rng.uniform(0.24, 0.34)
    for side in (-1, 1):
        chamber = np.hypot((u - side * spread) / 0.09, (v + 0.05) / height)
        picture = picture + (0.2 - picture) * edge(chamber - 1, 0.2)
    picture = picture + (0.85 - picture) * edge(np.abs(radius - 0.98) - 0.06, 0.03)
    picture = picture * edge(radius - 1.06, 0.03) + 0.03
    return np.clip(picture + 0.01 * rng.standard_normal(picture.shape), 0, 1), radius < 0.9


def picture_with_lesions(rng):
    """As `normal_picture`, with one or two lesions; and the mask of them."""
    picture, organ = normal_picture(rng)
    mask = np.zeros_like(organ)
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(rng.integers(1, 3)):
        row, column = rng.choice(np.argwhere(organ))
        width, height = rng.uniform(1.8, 4.2, 2)
        weight = edge(np.hypot((x - column) / width, (y - row) / height) - 1, 0.15) * organ
        strength = rng.uniform(0.22, 0.42) * rng.choice([-1, 1])
        picture = picture + weight * strength
        mask |= weight > 0.5
    return np.clip(picture, 0, 1), mask


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(path)


def draw(folder, *, normal, anomalous, train=0, seed=1):
    """Writes so many pictures of each kind."""
    for i in range(normal):
        write(folder / f"test/normal/{i:03}.png", normal_picture(np.random.default_rng([seed, 0, i]))[0])
    for i in range(anomalous):
        picture, mask = picture_with_lesions(np.random.default_rng([seed, 1, i]))
        write(folder / f"test/anomalous/{i:03}.png", picture)
        write(folder / f"masks/anomalous/{i:03}.png", mask)
    for i in range(train):
        write(folder / f"train/{i:05}.png", normal_picture(np.random.default_rng([seed, 2, i]))[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--normal", type=int, default=64)
    parser.add_argument("--anomalous", type=int, default=64)
    parser.add_argument("--train", type=int, default=0, help="normal pictures of other seeds, to train on")
    parser.add_argument("--seed", type=int, default=1)
    draw(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
