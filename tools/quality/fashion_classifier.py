"""The judge of `measure_fashion.py`: a small convolutional classifier trained on the real Fashion-MNIST.

    python tools/quality/fashion_classifier.py    # trains it (15 minutes on a CPU core) and prints its test accuracy

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
    return torch.from_numpy(images).float() / 255, torch.from_numpy(
        np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    )


class Classifier(nn.Module):
    """Four 3x3 convolutions, the first on 2x2 blocks of pixels; `features` are the 128 inputs of the last layer."""

    def __init__(self):
        super().__init__()

        def convolution(channels_in, channels):
            return [nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]

        self.convolutions = nn.Sequential(
            nn.PixelUnshuffle(2),  # [1, 32, 32] -> [4, 16, 16]: half the resolution and no pixel lost
            *convolution(4, 48),
            *convolution(48, 64),
            nn.MaxPool2d(2),
            *convolution(64, 128),
            *convolution(128, 128),
        )
        self.head = nn.Linear(128, 10)

    def features(self, images):
        return self.convolutions(images - 0.3).mean((2, 3))

    def forward(self, images):
        return self.head(F.dropout(self.features(images), 0.2, self.training))


@torch.no_grad()
def in_batches(function, images):
    return torch.cat([function(batch) for batch in images.split(500)])


def augment(images, shift):
    """Each picture mirrored or not; the batch moved by up to `shift` pixels (two is the width of the black border)."""
    mirrored = torch.rand(len(images)) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images.roll(torch.randint(-shift, shift + 1, (2,)).tolist(), (2, 3))


def fit(model, images, labels, *, epochs, rate, shift):
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, fused=True)
    batch = 125
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * len(images) // batch)
    for epoch in range(epochs):
        losses = []
        for pick in torch.randperm(len(images)).split(batch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(augment(images[pick], shift).contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}, mean loss {np.mean(losses):.3f}", flush=True)


def train(epochs, seed):
    """Four fifths of the epochs on shifted pictures, the rest on pictures that are not shifted."""
    torch.manual_seed(seed)
    model = Classifier().to(memory_format=torch.channels_last)
    images, labels = load_split("train")
    fit(model, images, labels, epochs=epochs * 4 // 5, rate=4e-3, shift=2)
    fit(model, images, labels, epochs=epochs - epochs * 4 // 5, rate=1.5e-3, shift=0)
    return model.eval()


def load():
    """The trained classifier; trains it first if there is none yet."""
    if not SAVED.exists():
        main([])
    model = Classifier()
    model.load_state_dict(torch.load(SAVED))
    return model.eval()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
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
