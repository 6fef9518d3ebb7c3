"""The autoencoder of emoji-64: AutoencoderKL, 64x64x3 -> 8x8x16 and back.

    python tools/train/train_vae.py                                # from scratch: target/train/vae
    python tools/train/train_vae.py --decoder-of target/train/vae  # afterwards: sharpen the decoder alone

The first pass trains all of it on L1 + 2 L2 + L1 of the picture's gradients + a small KL term.  At its end the mean and
spread of each latent channel are folded into `quant_conv` and `post_quant_conv`, so latents have mean 0 and variance 1
and the pipeline's scaling_factor is 1.  The second pass leaves the encoder, and so the latents and every U-Net trained
on them, as they are; latents get a little noise, because the U-Net's are not exact either.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from emoji_data import COLOURS, STYLE_SHARE, composite, load_sprites, shaded
from trainer import BUILD, Step, Trainer, add_arguments, save_grid

LATENT_CHANNELS = 16


def make_vae():
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(32, 32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=16,
        sample_size=64,
        scaling_factor=1.0,
        force_upcast=False,
    )


class Drawings:
    """Batches of composites.

    For the whole autoencoder, three in four are from the text-to-image set and the rest from all drawings, and half are
    mirrored: variety makes for meaningful latents.  For the decoder alone they are what the U-Net learns to draw, in
    the same proportions.
    """

    def __init__(self, folder, as_the_unet):
        self.rgba, entries = load_sprites(folder)
        self.of_the_set = np.array([i for i, entry in enumerate(entries) if entry["style"]])
        shares = np.array([STYLE_SHARE[entries[i]["style"]] if as_the_unet else 1.0 for i in self.of_the_set])
        self.shares, self.as_the_unet = shares / shares.sum(), as_the_unet

    def batch(self, size, rng):
        pick = rng.choice(self.of_the_set, size, p=self.shares)
        mirrored = None
        if not self.as_the_unet:
            pick = np.where(rng.random(size) < 0.75, pick, rng.integers(0, len(self.rgba), size))
            mirrored = rng.random(size) < 0.5
        spread = 8 if self.as_the_unet else 12
        backgrounds = np.stack([shaded(colour, rng, spread) for colour in rng.choice(list(COLOURS), size)])
        return composite(self.rgba[pick], backgrounds, mirrored).contiguous(memory_format=torch.channels_last)


def differences(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(decoded, picture):
    edges = sum((a - b).abs().mean() for a, b in zip(differences(decoded), differences(picture)))
    return (decoded - picture).abs().mean() + 2 * (decoded - picture).square().mean() + edges


@torch.no_grad()
def standardise_latents(vae, pictures):
    """Rescales quant_conv and post_quant_conv so that the latents of `pictures` have mean 0 and variance 1 in each
    channel.
    """
    moments = torch.cat([vae.quant_conv(vae.encoder(batch)) for batch in pictures.split(64)])
    means = moments[:, :LATENT_CHANNELS]
    mu, sigma = means.mean((0, 2, 3)), means.std((0, 2, 3))
    # moments are (mean, log variance): (mean - mu) / sigma and log variance - 2 log sigma
    vae.quant_conv.weight[:LATENT_CHANNELS] /= sigma[:, None, None, None]
    vae.quant_conv.bias[:LATENT_CHANNELS] = (vae.quant_conv.bias[:LATENT_CHANNELS] - mu) / sigma
    vae.quant_conv.bias[LATENT_CHANNELS:] -= 2 * sigma.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mu
    vae.post_quant_conv.weight *= sigma[None, :, None, None]


@torch.no_grad()
def report(vae, drawings, picture):
    """Peak signal-to-noise ratio on 256 fixed composites, and a grid of originals over reconstructions."""
    originals = drawings.batch(256, np.random.default_rng(5))
    decoded = torch.cat([vae.decode(vae.encode(batch).latent_dist.mean).sample for batch in originals.split(32)]).clamp(
        -1, 1
    )
    psnr = -10 * torch.log10((decoded - originals).div(2).square().mean((1, 2, 3)))
    rows = [originals[:20], decoded[:20], originals[20:40], decoded[20:40]]
    save_grid(torch.cat(rows) / 2 + 0.5, picture, columns=20)
    print(f"PSNR {psnr.mean():.2f} dB, {picture}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, samples=40_000, batch=16, learning_rate=1.5e-3)
    parser.add_argument("--data", type=Path, default=BUILD)
    parser.add_argument("--decoder-of", type=Path, help="folder of a finished autoencoder whose decoder is trained")
    parser.add_argument(
        "--latent-noise", type=float, default=0.15, help="largest spread of the noise on latents (decoder pass)"
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--output", type=Path, default=BUILD / "vae")
    options = parser.parse_args(arguments)
    decoder_only = options.decoder_of is not None
    checkpoint = options.checkpoint or BUILD / ("vae_decoder.pt" if decoder_only else "vae.pt")
    torch.manual_seed(options.seed)
    drawings = Drawings(options.data, as_the_unet=decoder_only)

    vae = AutoencoderKL.from_pretrained(options.decoder_of, torch_dtype=torch.float32) if decoder_only else make_vae()
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trainer = Trainer({"vae": vae}, options, checkpoint, muon=decoder_only, weight_decay=1e-3)

    for step in trainer.steps():
        pictures = drawings.batch(options.batch, step.rng).to(options.device)
        with trainer.autocast():
            with torch.set_grad_enabled(not decoder_only):
                mean, log_variance = vae.quant_conv(vae.encoder(pictures)).float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-20, 10)
            if decoder_only:
                spread = options.latent_noise * torch.rand(len(mean), 1, 1, 1, generator=step.generator).to(mean)
            else:
                spread = (log_variance / 2).exp()
            decoded = vae.decode(mean + spread * step.randn_like(mean)).sample.float()
        loss = reconstruction_loss(decoded, pictures)
        if not decoder_only:
            loss = loss + 5e-4 * 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        trainer.update(loss)

    averaged = trainer.averaged("vae")
    if not decoder_only:
        standardise_latents(averaged, drawings.batch(1536, Step(options.seed, 0).rng))
    report(averaged, drawings, options.output.with_suffix(".png"))
    averaged.half().save_pretrained(options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
