"""tissue-32: a DDPM that knows only normal pictures (draw.py), exported as a diffusers DDPMPipeline folder.

    pip install -r tools/train/requirements.txt
    python tools/anomaly/train.py                                            # -> target/train/tissue-32

Half of each batch is noised with Gaussian noise, half with simplex noise (simplex.py), so that one model serves for
both kinds that `unmist anomaly` draws; AnoDDPM (Wyatt et al. 2022) trains one for each.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

sys.path.append(str(Path(__file__).resolve().parent.parent / "train"))

import draw  # noqa: E402
from simplex import simplex_noise  # noqa: E402
from trainer import BUILD, Trainer, add_arguments, save_defaults  # noqa: E402


def make_unet():
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32, 48),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, samples=16_000, batch=16, learning_rate=1e-3)
    parser.add_argument("--pictures", type=int, default=4_000, help="normal pictures to draw for training")
    parser.add_argument("--noises", type=int, default=1_500, help="simplex noises to draw")
    parser.add_argument("--checkpoint", type=Path, default=BUILD / "tissue.pt")
    parser.add_argument("--output", type=Path, default=BUILD / "tissue-32")
    parser.set_defaults(precision="f32")  # with so few channels faster on CPUs than bf16
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    scheduler = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    trainer = Trainer({"unet": (unet := make_unet())}, options, options.checkpoint, muon=True)
    normal = [draw.normal_picture(np.random.default_rng([options.seed + 1, 2, i]))[0] for i in range(options.pictures)]
    pictures = torch.from_numpy(np.stack(normal)).float()[:, None] * 2 - 1
    # What a timestep's plane looks like does not depend on it, so that a few thousand planes serve for all.
    generator = torch.Generator().manual_seed(options.seed)
    noises = [simplex_noise(draw.SIDE, draw.SIDE, i % 1000, generator) for i in range(options.noises)]
    noises = torch.from_numpy(np.stack(noises))[:, None]

    for step in trainer.steps():
        x = pictures[step.rng.integers(0, len(pictures), options.batch)]
        x = torch.where(torch.from_numpy(step.rng.random((options.batch, 1, 1, 1)) < 0.5), x.flip(3), x)
        t = step.timesteps(options.batch)
        noise = step.randn_like(x)
        half = options.batch // 2
        noise[:half] = noises[step.rng.integers(0, len(noises), half)]
        a = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        with trainer.autocast():
            prediction = unet(a.sqrt() * x + (1 - a).sqrt() * noise, t).sample
        trainer.update((prediction.float() - noise).square().mean())

    DDPMPipeline(trainer.averaged("unet").half(), scheduler).save_pretrained(options.output)
    save_defaults(options.output, scheduler="ddim", num_inference_steps=50)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
