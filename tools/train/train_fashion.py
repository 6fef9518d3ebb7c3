"""ddpm-fashion-32: a class-conditional DDPM on Fashion-MNIST, exported as a diffusers DDPMPipeline folder.

    python tools/train/train_fashion.py                                              # from scratch
    python tools/train/train_fashion.py --start-from weights/ddpm-fashion-32 ...     # train the shipped weights further

The loss is that of Ho et al. 2020: the U-Net sees x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise and predicts the noise. One
label in ten is replaced by the empty class (10), which makes classifier-free guidance possible (Ho & Salimans 2022).
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from trainer import BUILD, Trainer, add_arguments, save_defaults

NULL_CLASS = 10
CAN_BE_MIRRORED = torch.tensor([True, True, True, True, True, False, True, False, True, False])  # all but shoes


def make_unet():
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=NULL_CLASS + 1,
    )


def make_scheduler():
    return DDPMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=True, variance_type="fixed_small"
    )


def load_fashion(folder):
    """Training pictures u8 [60000, 1, 32, 32] (28x28 with a border of 2) and labels [60000]."""
    images = np.frombuffer(gzip.open(folder / "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
    labels = np.frombuffer(gzip.open(folder / "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
    images = np.pad(images.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def draw_batch(images, labels, step, size):
    """`size` pictures in [-1, 1] [size, 1, 32, 32] and their labels, some mirrored, some of the empty class."""
    pick = torch.from_numpy(step.rng.integers(0, len(images), size))
    x, y = images[pick].float() / 127.5 - 1, labels[pick]
    mirrored = CAN_BE_MIRRORED[y] & torch.from_numpy(step.rng.random(size) < 0.5)
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x, torch.where(torch.from_numpy(step.rng.random(size) < 0.1), NULL_CLASS, y)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, samples=250_000, batch=32, learning_rate=1e-3)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--checkpoint", type=Path, default=BUILD / "fashion.pt")
    parser.add_argument("--start-from", type=Path, help="an exported folder whose weights to start from")
    parser.add_argument("--output", type=Path, default=BUILD / "ddpm-fashion-32")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    start, device = options.start_from, options.device
    unet = UNet2DModel.from_pretrained(start, subfolder="unet", torch_dtype=torch.float32) if start else make_unet()
    trainer = Trainer({"unet": unet}, options, options.checkpoint, muon=True)
    images, labels = load_fashion(options.data)
    alphas_cumprod = make_scheduler().alphas_cumprod.to(device)

    for step in trainer.steps():
        x, y = (t.to(device) for t in draw_batch(images, labels, step, options.batch))
        t = step.timesteps(options.batch).to(device)
        noise, a = step.randn_like(x), alphas_cumprod[t].view(-1, 1, 1, 1)
        with trainer.autocast():
            prediction = unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, y).sample
        trainer.update((prediction.float() - noise).square().mean())

    DDPMPipeline(trainer.averaged("unet").half(), make_scheduler()).save_pretrained(options.output)
    save_defaults(
        options.output, scheduler="ddim", num_inference_steps=25, guidance_scale=2.0, use_clipped_model_output=True
    )
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
