"""What the three training scripts share: a run's weights, optimizer, averaged weights, counters and checkpoint.

A run is fixed by its options and seed: everything random in step k (which pictures, captions, timesteps, noise) comes
from generators seeded with (seed, k), so a run that is stopped and resumed sees what an uninterrupted one sees.
"""

import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from muon import Muon

BUILD = Path("target/train")  # for everything made on the way; the finished folders go to --output


def add_arguments(parser, *, samples, batch, learning_rate):
    parser.add_argument(
        "--samples", type=int, default=samples, help="total samples at the end; also sets the cosine schedule"
    )
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help="peak of the cosine schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision", choices=["bf16", "f32"], default="bf16", help="of the activations; weights stay f32"
    )
    parser.add_argument("--save-every", type=float, default=300, metavar="SECONDS")
    parser.add_argument(
        "--export", action="store_true", help="train no further: only write the folder from the checkpoint"
    )


class Step:
    """The random numbers of one training step."""

    def __init__(self, seed, index):
        self.rng = np.random.default_rng([seed, index])
        self.generator = torch.Generator().manual_seed(int(self.rng.integers(2**62)))

    def randn_like(self, x):
        return torch.randn(x.shape, generator=self.generator).to(x)

    def timesteps(self, batch, count=1000, power=1.0):
        """`batch` timesteps, one from each of `batch` equal parts of [0, 1), shuffled; power < 1 favours noisy ones."""
        u = (torch.randperm(batch, generator=self.generator) + torch.rand(batch, generator=self.generator)) / batch
        return (u**power * count).long().clamp(max=count - 1)


class Trainer:
    """`modules`: name -> torch module, trained together.  A checkpoint that exists is read at once.

    The optimizer is AdamW, or with `muon` Muon for the matrices and convolutions within the networks and AdamW for the
    rest.
    """

    def __init__(self, modules, options, checkpoint, *, muon=False, weight_decay=0.01, ema_decay=0.998, warmup=150):
        torch.set_num_threads(options.threads)
        self.modules, self.options, self.checkpoint = modules, options, Path(checkpoint)
        self.ema_decay, self.warmup = ema_decay, warmup
        self.step = self.samples = 0
        self.loss_history = []  # (step, mean of the losses since the previous entry)

        for module in modules.values():
            module.to(options.device, memory_format=torch.channels_last).train()
        named = [(f"{key}.{name}", p) for key, module in modules.items() for name, p in module.named_parameters()]
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        # Muon is for weights that map features to features, not for input layers, output layers and embeddings.
        outer = ("conv_in", "conv_out", "quant_conv", "embedding")
        inner = [p for name, p in self.parameters.items() if p.ndim > 1 and not any(part in name for part in outer)]
        vectors = [p for p in self.parameters.values() if p.ndim <= 1]  # biases and norms: no decay
        taken = {id(p) for p in vectors + (inner if muon else [])}
        matrices = [p for p in self.parameters.values() if id(p) not in taken]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizers = [torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)]
        if muon:
            self.optimizers.append(Muon(inner, weight_decay=weight_decay))
        if self.checkpoint.exists():
            self.load()

    # ---- the loop -------------------------------------------------------------------------------------------------

    def steps(self):
        """Yields a `Step` until --samples are seen; saves the checkpoint every so often, and at the end."""
        losses, saved, logged = [], time.time(), time.time()
        while self.samples < self.options.samples and not self.options.export:
            self.loss = None
            yield Step(self.options.seed, self.step)
            assert self.loss is not None, "every step must end with update(loss)"
            losses.append(self.loss)
            if self.step % 100 == 0:
                self.loss_history.append((self.step, float(np.mean(losses))))
                rate = len(losses) * self.options.batch / (time.time() - logged)
                print(
                    f"step {self.step} samples {self.samples} loss {np.mean(losses):.4f} {rate:.0f} samples/s",
                    flush=True,
                )
                losses, logged = [], time.time()
            if time.time() - saved > self.options.save_every:
                self.save()
                saved = time.time()
        if not self.options.export:
            self.save()

    def autocast(self):
        low = self.options.precision == "bf16"
        return torch.autocast(torch.device(self.options.device).type, dtype=torch.bfloat16, enabled=low)

    def learning_rate(self):
        """Cosine from the peak to a fiftieth of it at --samples, after a linear warm-up."""
        done = min(1.0, self.samples / self.options.samples)
        warm = min(1.0, (self.step + 1) / self.warmup)
        return self.options.learning_rate * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)

    def update(self, loss):
        """Backward, clip, optimizers, moving average.  A step whose gradient is not finite moves no parameter."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            if torch.isfinite(norm):
                optimizer.step()
        self.step += 1
        self.samples += self.options.batch
        self.loss = loss.item()
        with torch.no_grad():
            decay = min(self.ema_decay, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - decay)

    # ---- the checkpoint -------------------------------------------------------------------------------------------

    def save(self):
        state = {
            "step": self.step,
            "samples": self.samples,
            "loss_history": self.loss_history,
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    @torch.no_grad()
    def load(self):
        state = torch.load(self.checkpoint, map_location=self.options.device)
        for name, parameter in self.parameters.items():
            parameter.copy_(state["parameters"][name])
            self.ema[name].copy_(state["ema"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.samples, self.loss_history = state["step"], state["samples"], state["loss_history"]
        print(f"{self.checkpoint}: resumed at step {self.step}, {self.samples} samples", flush=True)

    def averaged(self, key):
        """A copy of `modules[key]` that holds the moving average of its weights."""
        module = copy.deepcopy(self.modules[key]).float().cpu().eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if f"{key}.{name}" in self.ema:
                    parameter.copy_(self.ema[f"{key}.{name}"])
        return module


def save_defaults(folder, **defaults):
    """Writes the settings that suit the model to where `unmist sample` looks for them."""
    (Path(folder) / "generation_config.json").write_text(json.dumps(defaults, indent=2) + "\n", encoding="utf-8")


def save_grid(pictures, path, columns):
    """Pictures [N, C, H, W] in [0, 1] as one PNG; only full rows of `columns` are drawn."""
    count, channels, height, width = pictures.shape
    columns = min(columns, count)
    rows = count // columns
    grid = pictures[: rows * columns].clamp(0, 1).mul(255).round().byte().view(rows, columns, channels, height, width)
    grid = grid.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels).numpy()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid.squeeze(-1) if channels == 1 else grid).save(path)
