"""The judge of `measure_fashion.py`: a small convolutional classifier trained on the real Fashion-MNIST.

    python tools/quality/fashion_classifier.py        # trains it (about 8 minutes of a CPU core) and prints its test accuracy

It reads the 60 000 training pictures of the Debian package `dataset-fashion-mnist`, padded to 32x32 as the model draws
them, and is kept in target/quality/fashion_classifier.pt.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

DATA = Path("/usr/share/datasets/fashion-mnist")
SAVED = Path("target/quality/fashion_classifier.pt")
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]


def load_split(split):
    """`train` or `t10k` -> pictures [N, 1, 32, 32] in [0, 1] and labels [N]."""
    images = gzip.open(DATA / f"{split}-images-idx3-ubyte.gz").read()
    labels = gzip.open(DATA / f"{split}-labels-idx1-ubyte.gz").read()
    images = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    images = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(images).float() / 255, torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


class Classifier(nn.Module):
    """Four 3x3 convolutions; `features` gives the 96 numbers before the last layer."""

    def __init__(self):
        super().__init__()
        layers, channels_in = [], 1
        for channels, stride in [(24, 2), (48, 1), (96, 2), (96, 1)]:
            layers += [nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            channels_in = channels
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(96, 10)

    def features(self, images):
        return self.convolutions(images - 0.3).mean((2, 3))

    def forward(self, images):
        return self.head(F.dropout(self.features(images), 0.2, self.training))


@torch.no_grad()
def in_batches(function, images):
    return torch.cat([function(batch) for batch in images.split(500)])


def train(epochs, seed):
    torch.manual_seed(seed)
    model = Classifier().to(memory_format=torch.channels_last)
    images, labels = load_split("train")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    batch, steps = 100, epochs * len(images) // 100
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        if step % (len(images) // batch) == 0:
            order = torch.randperm(len(images))
        pick = order[step * batch % len(images) :][:batch]
        x = images[pick].contiguous(memory_format=torch.channels_last)
        x = torch.where((torch.rand(batch) < 0.5)[:, None, None, None], x.flip(3), x)
        loss = F.cross_entropy(model(x), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    return model.eval()


def load():
    """The trained classifier; trains it first where there is none yet."""
    if not SAVED.exists():
        main([])
    model = Classifier()
    model.load_state_dict(torch.load(SAVED))
    return model.eval()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = train(options.epochs, options.seed)
    images, labels = load_split("t10k")
    accuracy = (in_batches(model, images).argmax(1) == labels).float().mean().item()
    SAVED.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), SAVED)
    print(f"{SAVED}: {accuracy:.2%} of the 10 000 test pictures")


if __name__ == "__main__":
    main()
