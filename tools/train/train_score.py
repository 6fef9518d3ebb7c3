"""A small NCSN++ on pictures that it draws itself: a disc on a plain ground, both of any colour, 16×16.

    python tools/train/train_score.py                     # a few minutes -> target/train/score-discs
    python tools/train/train_score.py --steps 20000       # better

The score of pictures noised by σ is learned by denoising (Vincent 2011; Song et al. 2021, eq. 7), weighted by σ²:
the mean of ‖σ s(x + σ z, σ) + z‖². The folder is one of diffusers' ScoreSdeVePipeline.
"""

import argparse
import copy
import math
from pathlib import Path

import torch
from diffusers import ScoreSdeVePipeline, ScoreSdeVeScheduler, UNet2DModel

SIDE, SIGMA_MIN, SIGMA_MAX = 16, 0.01, 12.0
UNET = dict(
    sample_size=SIDE, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=None, norm_eps=1e-6,
    down_block_types=("SkipDownBlock2D",) * 2, up_block_types=("SkipUpBlock2D",) * 2,
    attention_head_dim=None, time_embedding_type="fourier", mid_block_scale_factor=math.sqrt(2),
)  # fmt: skip


def discs(count, gen):
    """Pictures [N, 3, 16, 16] from 0 to 1 with soft edges."""
    centre = 4 + (SIDE - 9) * torch.rand(count, 2, 1, 1, generator=gen)
    radius = 2.5 + 2.5 * torch.rand(count, 1, 1, generator=gen)
    ground, colour = torch.rand(2, count, 3, 1, 1, generator=gen)
    at = torch.arange(SIDE)
    distance = torch.hypot(at[:, None] - centre[:, 0], at[None, :] - centre[:, 1])
    inside = (radius + 0.5 - distance).clamp(0, 1)[:, None]
    return ground + inside * (colour - ground)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("target/train/score-discs"))
    parser.add_argument("--steps", type=int, default=3000, help="of 32 pictures each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    gen = torch.Generator().manual_seed(arguments.seed)

    unet = UNet2DModel(**UNET)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, arguments.steps)
    lost = 0.0
    for step in range(1, arguments.steps + 1):
        pictures = discs(32, gen)
        sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** torch.rand(32, generator=gen)
        noise = torch.randn(pictures.shape, generator=gen)
        wide = sigma[:, None, None, None]
        loss = (wide * unet(pictures + wide * noise, sigma).sample + noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        for kept, new in zip(average.parameters(), unet.parameters()):
            kept.lerp_(new, 1 - min(0.999, step / (step + 10)))
        lost += loss.item()
        if step % 100 == 0:
            print(f"{step:6}  loss {lost / 100:.4f}", flush=True)
            lost = 0.0

    scheduler = ScoreSdeVeScheduler(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    ScoreSdeVePipeline(average, scheduler).save_pretrained(arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
