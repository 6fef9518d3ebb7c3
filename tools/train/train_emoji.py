"""emoji-64: text encoder and U-Net, trained together, exported as a diffusers StableDiffusionPipeline folder.

    python tools/train/train_emoji.py                                    # from target/train/vae and tokenizer
    python tools/train/train_emoji.py --start-from weights/emoji-64 ...  # train the shipped weights further

Latent diffusion (Rombach et al. 2022) with v-prediction (Salimans & Ho 2022) and betas rescaled to zero terminal
signal-to-noise ratio (Lin et al. 2023): at the last timestep the U-Net sees pure noise and must know the picture, and
the colour of the background, from the prompt alone.  Only the combination (thing, background) is random: pictures are
few, so the latents of all of them on all backgrounds are computed once, at the start.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from emoji_data import COLOURS, STYLE_SHARE, composite, is_held_out, load_sprites, prompt, random_caption, shaded
from trainer import BUILD, Trainer, add_arguments, save_defaults, save_grid

MAX_TOKENS = 32
WIDTH = 128  # of the text encoder


def make_unet():
    """Three levels, 8x8, 4x4 and 2x2.  The last is small but matters: only the zero padding of its convolutions tells a
    U-Net where a pixel is, and at the last timestep the input is pure noise; on 2x2 every position differs from the
    others in its padding, so there the prompt can be laid out in space."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(128, 160, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        time_embedding_dim=128,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def make_text_encoder(tokenizer):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        hidden_act="quick_gelu",
    )
    return CLIPTextModel(config)


def make_scheduler():
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Latents:
    """Every drawing of the set on every background, encoded: [drawings, colours, 16, 8, 8]."""

    def __init__(self, vae, data, seed):
        rgba, entries = load_sprites(data)
        keep = [i for i, entry in enumerate(entries) if entry["style"]]
        self.entries, rng = [entries[i] for i in keep], np.random.default_rng(seed)
        columns = []
        for colour in COLOURS:
            backgrounds = np.stack([shaded(colour, rng, 8) for _ in keep])
            pictures = composite(rgba[keep], backgrounds).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                columns.append(torch.cat([vae.encode(batch).latent_dist.mean for batch in pictures.split(32)]))
        self.latents = torch.stack(columns, 1)
        shares = np.array([STYLE_SHARE[entry["style"]] for entry in self.entries])
        self.shares = shares / shares.sum()
        self.trained = [[c for c in COLOURS if not is_held_out(entry["label"], c)] for entry in self.entries]

    def batch(self, size, rng):
        """Latents [size, 16, 8, 8] and captions; a fifth on white, no held-out (thing, background) pair."""
        colours = list(COLOURS)
        picks = rng.choice(len(self.entries), size, p=self.shares)
        grounds = ["white" if rng.random() < 0.2 else rng.choice(self.trained[i]) for i in picks]
        captions = [random_caption(self.entries[i], colour, rng) for i, colour in zip(picks, grounds)]
        return self.latents[picks, [colours.index(colour) for colour in grounds]], captions


def export(trainer, vae, tokenizer, tokenizer_folder, folder):
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=trainer.averaged("text_encoder").half(),
        tokenizer=tokenizer,
        unet=trainer.averaged("unet").half(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    save_defaults(folder, num_inference_steps=25, guidance_scale=1.5)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer_folder / name, folder / "tokenizer" / name)


def sample_grid(folder, names, path):
    """Each name on the next background in turn, 3d, drawn by the exported folder with stock diffusers in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [prompt(name, "3d", list(COLOURS)[i % len(COLOURS)]) for i, name in enumerate(names)]
    generator = torch.Generator().manual_seed(0)
    images = pipeline(prompts, num_inference_steps=25, guidance_scale=1.5, generator=generator, output_type="pt").images
    save_grid(images, path, columns=8)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, samples=600_000, batch=128, learning_rate=1.5e-3)
    parser.add_argument("--data", type=Path, default=BUILD, help="folder of sprites.npz and sprites.json")
    parser.add_argument("--vae", type=Path, help="default: target/train/vae, or that of --start-from")
    parser.add_argument("--tokenizer", type=Path, help="default: target/train/tokenizer, or that of --start-from")
    parser.add_argument("--start-from", type=Path, help="an exported folder whose weights to start from")
    parser.add_argument(
        "--noisy-power", type=float, default=0.55, help="timestep = 1000 u^POWER: below 1, more noisy steps"
    )
    parser.add_argument("--checkpoint", type=Path, default=BUILD / "emoji.pt")
    parser.add_argument("--output", type=Path, default=BUILD / "emoji-64")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    start = options.start_from
    vae_folder = options.vae or (start / "vae" if start else BUILD / "vae")
    tokenizer_folder = options.tokenizer or (start / "tokenizer" if start else BUILD / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, model_max_length=MAX_TOKENS)
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).eval()

    if start:
        unet = UNet2DConditionModel.from_pretrained(start, subfolder="unet", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(start, subfolder="text_encoder", dtype=torch.float32)
    else:
        unet, text_encoder = make_unet(), make_text_encoder(tokenizer)
    unet.set_attn_processor(
        AttnProcessor()
    )  # plain products: on a CPU the fused attention's backward takes a third of a step
    trainer = Trainer({"unet": unet, "text_encoder": text_encoder}, options, options.checkpoint, muon=True)
    device = options.device
    if not options.export:
        drawings = Latents(vae, options.data, options.seed)
    alphas_cumprod = make_scheduler().alphas_cumprod.to(device)

    for step in trainer.steps():
        x, captions = drawings.batch(options.batch, step.rng)
        x = x.to(device, memory_format=torch.channels_last)
        t = step.timesteps(options.batch, power=options.noisy_power).to(device)
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")["input_ids"].to(device)
        noise, a = step.randn_like(x), alphas_cumprod[t].view(-1, 1, 1, 1)
        with trainer.autocast():
            states = text_encoder(tokens).last_hidden_state
            prediction = unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, states).sample
        velocity = a.sqrt() * noise - (1 - a).sqrt() * x
        trainer.update((prediction.float() - velocity).square().mean())

    export(trainer, vae, tokenizer, tokenizer_folder, options.output)
    names = sorted({entry["name"] for entry in load_sprites(options.data)[1] if entry["style"]})
    (options.output / "concepts.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    sample_grid(options.output, names[:: max(1, len(names) // 48)][:48], options.output.with_suffix(".png"))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
