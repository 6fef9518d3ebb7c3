"""Trains each model for a few steps on a handful of made-up pictures (about a minute, no downloads).

    python tools/train/smoke_test.py

Checked for each: a run that was interrupted and resumed ends with exactly the weights of one that was not; the exported
folder loads in diffusers, holds the averaged weights, and draws finite pictures; training can start from that folder.
"""

import gzip
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMPipeline, StableDiffusionPipeline
from safetensors.torch import load_file

import build_tokenizer
import trainer as trainer_module
import train_emoji
import train_fashion
import train_vae
from emoji_data import CONCEPTS, is_held_out

STEPS, BATCH = 5, 4


class Interrupted(Exception):
    pass


def interrupt_after(steps):
    """Stops training dead in step `steps + 1`, as if the machine had died."""
    update = trainer_module.Trainer.update

    def update_or_stop(self, loss):
        if self.step == steps:
            raise Interrupted
        update(self, loss)

    return mock.patch.object(trainer_module.Trainer, "update", update_or_stop)


def check_resume(name, main, folder, arguments):
    """Runs `main` straight through and again with an interruption; both checkpoints must be equal to the last bit."""
    common = ["--samples", STEPS * BATCH, "--batch", BATCH, "--threads", 1, "--save-every", 0, *arguments]

    def run(kind):
        main([str(a) for a in [*common, "--checkpoint", folder / f"{kind}.pt", "--output", folder / kind / name]])
        return torch.load(folder / f"{kind}.pt")

    straight = run("straight")
    with interrupt_after(2):
        try:
            run("resumed")
        except Interrupted:
            pass
    assert torch.load(folder / "resumed.pt")["step"] == 2
    resumed = run("resumed")
    assert resumed["step"] == straight["step"] == STEPS and resumed["samples"] == STEPS * BATCH
    for key, value in straight["parameters"].items():
        assert torch.equal(value, resumed["parameters"][key]), f"{name}: {key} differs after a resume"
        assert torch.equal(straight["ema"][key], resumed["ema"][key]), f"{name}: averaged {key} differs after a resume"
    (folder / "straight.pt").unlink()
    (folder / "resumed.pt").unlink()
    return folder / "straight" / name, straight


def check_weights(file, state, prefix):
    """The exported file holds the averaged weights, rounded to f16."""
    exported = load_file(file)
    for key, tensor in exported.items():
        assert torch.equal(tensor, state["ema"][f"{prefix}.{key}"].half()), f"{file}: {key}"


def make_sprites(folder):
    """Twelve things in two drawing sets: filled ellipses and boxes, transparent outside."""
    rng, rows, columns = np.random.default_rng(0), *np.mgrid[0:64, 0:64]
    rgba, entries = [], []
    for i, label in enumerate(CONCEPTS.read_text(encoding="utf-8").splitlines()[:12]):
        for set_name in ("twemoji", "fluent-3d"):
            ellipse = (rows - 32) ** 2 / rng.uniform(200, 900) + (columns - 32) ** 2 / rng.uniform(200, 900) < 1
            picture = np.zeros((64, 64, 4), np.uint8)
            picture[ellipse if i % 2 else (abs(rows - 32) < 20) & (abs(columns - 32) < 12)] = [
                *rng.integers(0, 256, 3),
                255,
            ]
            rgba.append(picture)
            names = {"label": label, "tags": [f"thing {chr(97 + i)}"], "group": "objects", "subgroup": "other"}
            entries.append({"set": set_name, "code_points": str(i), "tone": 0, **names})
    np.savez_compressed(folder / "sprites.npz", rgba=np.stack(rgba))
    (folder / "sprites.json").write_text(json.dumps(entries))


def make_fashion(folder):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 10
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(bytes(16) + images.tobytes())
    with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(bytes(8) + labels.tobytes())


def fashion(folder):
    data = folder / "data"
    data.mkdir()
    make_fashion(data)
    arguments = ["--data", data]
    exported, state = check_resume("ddpm-fashion-32", train_fashion.main, folder, arguments)
    check_weights(exported / "unet/diffusion_pytorch_model.safetensors", state, "unet")
    unet = DDPMPipeline.from_pretrained(exported).unet.float()
    with torch.no_grad():
        out = unet(torch.randn(2, 1, 32, 32), 500, class_labels=torch.tensor([3, train_fashion.NULL_CLASS])).sample
    assert out.shape == (2, 1, 32, 32) and out.isfinite().all()
    check_resume("further", train_fashion.main, folder, [*arguments, "--start-from", exported])


def emoji(folder):
    data = folder / "data"
    data.mkdir()
    make_sprites(data)
    sources = ["--data", data]
    vae, _ = check_resume("vae", train_vae.main, folder, sources)
    before = load_file(vae / "diffusion_pytorch_model.safetensors")
    sharper, _ = check_resume("sharper", train_vae.main, folder, [*sources, "--decoder-of", vae])
    moved = {
        key
        for key, t in load_file(sharper / "diffusion_pytorch_model.safetensors").items()
        if not torch.equal(t, before[key])
    }
    assert "decoder.conv_in.weight" in moved and not any(
        key.startswith(("encoder.", "quant_conv.")) for key in moved
    ), moved

    build_tokenizer.main(["--data", str(data), "--output", str(folder / "tokenizer")])
    sources += ["--vae", sharper, "--tokenizer", folder / "tokenizer"]
    exported, state = check_resume("emoji-64", train_emoji.main, folder, sources)
    check_weights(exported / "unet/diffusion_pytorch_model.safetensors", state, "unet")
    check_weights(exported / "text_encoder/model.safetensors", state, "text_encoder")
    pipeline = StableDiffusionPipeline.from_pretrained(exported, torch_dtype=torch.float32)
    picture = pipeline("flat airplane, red background", num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all()

    latents = train_emoji.Latents(AutoencoderKL.from_pretrained(sharper).float().eval(), data, 0)
    assert latents.latents.shape[1:] == (11, 16, 8, 8)
    assert not any(is_held_out(e["label"], c) for e, colours in zip(latents.entries, latents.trained) for c in colours)
    check_resume("further", train_emoji.main, folder, ["--data", data, "--start-from", exported])


def main():
    for test in (fashion, emoji):
        with tempfile.TemporaryDirectory() as folder:
            test(Path(folder))
        print(f"{test.__name__}: passed", flush=True)


if __name__ == "__main__":
    main()
