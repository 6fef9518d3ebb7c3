"""How good are the pictures of emoji-64?  500 prompts; the judges are the nearest sprite and the corners' colour.

    python tools/train/build_sprites.py                                        # once: the sprites to compare with
    python tools/quality/measure_emoji.py                                      # pictures from diffusers
    python tools/quality/measure_emoji.py --unmist target/release/unmist       # pictures from unmist

Half of the prompts are (thing, background) pairs that were trained, half are pairs that were held out; things, styles
and backgrounds are drawn at random with the seed.  The model's own autoencoder encodes each picture and every sprite of
the set on the prompted background; the sprite nearest in latent space, of any style, must be of the thing asked for.
The background is right when the named colour is nearest to the median of the picture's corners.  Likeness is the peak
signal-to-noise ratio to the drawing asked for.  For comparison, the same is printed for the real sprites, for those
sprites after a pass through the autoencoder, and for sprites of other things in their place (chance).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

import pictures

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from emoji_data import COLOURS, composite, is_held_out, load_sprites, prompt  # noqa: E402
from trainer import BUILD, save_grid  # noqa: E402


class Prompts:
    """`count` pairs (sprite, colour) and their texts; all of held-out pairs, or none."""

    def __init__(self, entries, count, held_out, rng):
        pairs = [(i, c) for i, e in enumerate(entries) for c in COLOURS if is_held_out(e["label"], c) == held_out]
        chosen = [pairs[k] for k in rng.choice(len(pairs), count, replace=count > len(pairs))]
        self.sprites = np.array([i for i, _ in chosen])
        self.colours = [c for _, c in chosen]
        self.labels = np.array([entries[i]["label"] for i in self.sprites])
        self.texts = [prompt(entries[i]["name"], entries[i]["style"], c) for i, c in chosen]


class Judge:
    def __init__(self, model, rgba, entries):
        self.vae = AutoencoderKL.from_pretrained(model, subfolder="vae", torch_dtype=torch.float32).eval()
        self.labels = np.array([entry["label"] for entry in entries])
        self.styles = np.array([entry["style"] for entry in entries])
        self.sprites = {c: self.encode(composite(rgba, np.tile(rgb, (len(rgba), 1)))) for c, rgb in COLOURS.items()}

    def encode(self, images):
        """[-1, 1] pictures -> flat latents."""
        return torch.cat([latents.flatten(1) for latents in self.latents(images)])

    @torch.no_grad()
    def latents(self, images):
        """[-1, 1] pictures -> latents, fifty at a time."""
        images = images.contiguous(memory_format=torch.channels_last)
        return [self.vae.encode(batch).latent_dist.mean for batch in images.split(50)]

    @torch.no_grad()
    def autoencoded(self, images):
        """[0, 1] pictures after a pass through the autoencoder: the most that the U-Net can reach."""
        return (torch.cat([self.vae.decode(z).sample for z in self.latents(images * 2 - 1)]) / 2 + 0.5).clamp(0, 1)

    def judge(self, images, prompts):
        """Shares of pictures [0, 1] with the prompts' things, styles and backgrounds; and which things are right."""
        latents = self.encode(images * 2 - 1)
        nearest = [torch.cdist(z[None], self.sprites[c]).argmin().item() for z, c in zip(latents, prompts.colours)]
        thing = self.labels[nearest] == prompts.labels
        style = self.styles[nearest] == self.styles[prompts.sprites]
        ends = (slice(4), slice(-4, None))
        corners = torch.cat([images[..., rows, columns].flatten(2) for rows in ends for columns in ends], 2)
        distance = torch.cdist(corners.median(2).values * 255, torch.tensor(list(COLOURS.values())).float())
        ground = np.array(list(COLOURS))[distance.argmin(1)] == np.array(prompts.colours)
        return {"thing": thing.mean(), "style": style.mean(), "background": ground.mean()}, thing


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="weights/emoji-64")
    parser.add_argument("--data", type=Path, default=BUILD, help="folder of sprites.npz and sprites.json")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unmist", help="take the pictures from this binary instead of diffusers")
    parser.add_argument("--grid", type=Path, help="also write the pictures beside their sprites as a PNG")
    options = parser.parse_args()

    rgba, entries = load_sprites(options.data)
    keep = [i for i, entry in enumerate(entries) if entry["style"]]
    rgba, entries = rgba[keep], [entries[i] for i in keep]
    judge, rng = Judge(options.model, rgba, entries), np.random.default_rng(options.seed)

    def report(name, images, prompts, real):
        shares, thing = judge.judge(images, prompts)
        figures = "  ".join(f"{key} right {share:.1%}" for key, share in shares.items())
        likeness = -10 * torch.log10((images - real).square().mean((1, 2, 3)).clamp(min=1e-10)).mean().item()
        print(f"{name:<46}{figures}  likeness {likeness:.1f} dB", flush=True)
        return thing

    for kind, held_out in (("seen", False), ("held-out", True)):
        prompts = Prompts(entries, options.count // 2, held_out, rng)
        grounds = np.array([COLOURS[c] for c in prompts.colours])
        real = composite(rgba[prompts.sprites], grounds) / 2 + 0.5
        report(f"{kind} pairs, real sprites", real, prompts, real)
        shuffled = rng.permutation(prompts.sprites)
        report(f"{kind} pairs, other sprites", composite(rgba[shuffled], grounds) / 2 + 0.5, prompts, real)
        report(f"{kind} pairs, real ones by the autoencoder", judge.autoencoded(real), prompts, real)
        settings = (options.seed, options.steps, options.guidance_scale)
        if options.unmist:
            images = pictures.emoji_with_unmist(options.unmist, options.model, prompts.texts, *settings)
        else:
            images = pictures.emoji_with_diffusers(options.model, prompts.texts, *settings)
        thing = report(f"{kind} pairs, {len(prompts.texts)} generated pictures", images, prompts, real)
        wrong = [text for text, right in zip(prompts.texts, thing) if not right]
        if wrong:
            print(f"  not recognised, for instance: {'; '.join(wrong[:8])}")
        if options.grid:
            rows = [row for pair in zip(images.split(12), real.split(12)) for row in pair if len(row) == 12]
            save_grid(torch.cat(rows[:12]), options.grid.with_stem(f"{options.grid.stem}_{kind}"), columns=12)


if __name__ == "__main__":
    main()
