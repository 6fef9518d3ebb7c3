#!/usr/bin/env python3
"""Trains a class-conditional UNet2DModel by torch as `unmist train` does, to compare speed, losses and pictures.

    python tools/train/plain_torch.py --data FOLDER_OF_IDX_FILES --output OUT --steps 2000 --batch 128
    python tools/train/plain_torch.py --data ... --output OUT --steps 12 --batch 16 --threads 2   # speed on a CPU

Settings as in benches/results/training.md: AdamW, rate 1e-3 with 100 steps of warm-up and a cosine, gradients of
length 1 at most, an average of 0.998, one picture in ten without its class, all but shoes mirrored half of the time,
noise levels one in each of as many parts as the batch has pictures. float32.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler

FLIPPED = torch.tensor([1, 1, 1, 1, 1, 0, 1, 0, 1, 0], dtype=torch.bool)
NO_CLASS = 10


def read(folder):
    """All training pictures in the middle of 32 x 32 black pixels, in [-1, 1], and their classes."""

    def load(name, skip):
        return numpy.frombuffer(gzip.open(Path(folder) / name).read(), numpy.uint8, offset=skip)

    pictures = load("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    pictures = torch.from_numpy(numpy.pad(pictures, ((0, 0), (2, 2), (2, 2)))).float() / 127.5 - 1
    return pictures[:, None], torch.from_numpy(load("train-labels-idx1-ubyte.gz", 8).astype(numpy.int64))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--config", default="weights/ddpm-fashion-32")
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    config = json.loads((Path(options.config) / "unet" / "config.json").read_text())
    schedule = json.loads((Path(options.config) / "scheduler" / "scheduler_config.json").read_text())
    model = UNet2DModel.from_config(config).to(device).train()
    scheduler = DDPMScheduler.from_config(schedule)
    alphas = scheduler.alphas_cumprod.to(device)
    pictures, classes = read(options.data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=options.steps)
    average = [p.detach().clone() for p in model.parameters()]
    order, losses, began, lines = [], [], time.time(), ["step,loss,pictures_per_second"]
    for step in range(options.steps):
        if len(order) < options.batch:
            order = torch.randperm(len(pictures))
        index, order = order[: options.batch], order[options.batch :]
        label = classes[index]
        original = pictures[index]
        flip = FLIPPED[label] & (torch.rand(len(index)) < 0.5)
        original = torch.where(flip[:, None, None, None], original.flip(3), original).to(device)
        label = torch.where(torch.rand(len(index)) < 0.1, NO_CLASS, label).to(device)
        level = (torch.arange(len(index)) + torch.rand(len(index))) / len(index)
        timestep = (level * 1000).long().clamp(max=999).to(device)
        noise = torch.randn(original.shape).to(device)
        alpha = alphas[timestep][:, None, None, None]
        noisy = alpha.sqrt() * original + (1 - alpha).sqrt() * noise
        loss = (model(noisy, timestep, class_labels=label).sample - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1 - decay)
        losses.append(loss.detach())
        if (step + 1) % 10 == 0 or step + 1 == options.steps:
            mean = torch.stack(losses).mean().item()
            speed = options.batch * len(losses) / (time.time() - began)
            lines.append(f"{step + 1},{mean:.6f},{speed:.2f}")
            if (step + 1) % 100 == 0 or options.steps < 100:
                print(lines[-1], flush=True)
            losses, began = [], time.time()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), average):
            parameter.copy_(value)
    DDPMPipeline(model.cpu(), scheduler).save_pretrained(options.output)
    (Path(options.output) / "log.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
