"""Simplex noise in several octaves, as `unmist anomaly --noise simplex` draws it (src/rng/simplex.rs).

Simplex noise (Perlin 2001): space is cut into tetrahedra, and each of the four corners of that in which a point lies
adds a gradient of its own, faded by distance. Octaves as in AnoDDPM (Wyatt et al. 2022, section 3.2): a plane through
the noise at height t, with coordinates divided by 64, 32, ..; each octave counts 0.8 times the one before.
"""

import numpy as np
import torch

GRADIENTS = np.array(
    [[1, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [1, 0, 1], [-1, 0, 1]]
    + [[1, 0, -1], [-1, 0, -1], [0, 1, 1], [0, -1, 1], [0, 1, -1], [0, -1, -1]]
)
SCALE = 60.0  # so that the standard deviation is 0.31, that of OpenSimplex noise, which the authors draw
OCTAVES, PERSISTENCE, WAVELENGTH = 6, 0.8, 64.0


def noise3(x, y, z, order):
    """Noise at points of one shape, with a permutation of 0 to 255."""
    point = np.stack(np.broadcast_arrays(x, y, z)).astype(np.float64)
    cell = np.floor(point + point.sum(0) / 3)  # skewed, tetrahedra are the six halves of the halves of a cube
    first = point - cell + cell.sum(0) / 6
    # The second corner is one further along the largest coordinate, the third also along the second largest.
    rank = (-first).argsort(0, kind="stable").argsort(0, kind="stable")
    total = np.zeros(point.shape[1:])
    for corner in range(4):
        step = (rank < corner).astype(np.float64)
        offset = first - step + corner / 6
        i, j, k = (cell + step).astype(np.int64) & 255
        gradient = GRADIENTS[order[(order[(order[k] + j) & 255] + i) & 255] % 12]
        fade = np.maximum(0.5 - (offset**2).sum(0), 0) ** 4
        total += fade * (gradient[..., 0] * offset[0] + gradient[..., 1] * offset[1] + gradient[..., 2] * offset[2])
    return SCALE * total


def octaves(height, width, t, order):
    """A picture [height, width] of noise."""
    y, x = np.mgrid[:height, :width]
    total, amplitude, wavelength = np.zeros((height, width)), 1.0, WAVELENGTH
    for _ in range(OCTAVES):
        total += amplitude * noise3(x / wavelength, y / wavelength, np.float64(t / wavelength), order)
        amplitude, wavelength = amplitude * PERSISTENCE, wavelength / 2
    return total


def simplex_noise(height, width, t, generator):
    """As `octaves`; the permutation is the order of 256 numbers of `torch.randn`."""
    order = torch.randn(256, generator=generator).argsort(stable=True).numpy()
    return octaves(height, width, t, order).astype(np.float32)
