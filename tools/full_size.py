"""Stable Diffusion at its full size with random weights: the real configs of 1.5 and XL, f16 files of several GB, and
what diffusers computes with them.

    python tools/full_size.py make sd15 target/full-size/sd15     # a pipeline folder, with inputs and outputs
    python tools/full_size.py make sdxl target/full-size/sdxl     # the same; diffusers takes 16 GiB of memory for it
    python tools/full_size.py compare FOUND.safetensors EXPECTED.safetensors
    python tools/full_size.py rounding target/full-size/sdxl      # what rounding to f16 does to diffusers' own output

The outputs are diffusers', in float32 with weights rounded to f16. Then
`unmist run --model FOLDER --component unet --input FOLDER/unet_in.safetensors --output out.safetensors` does one step,
`unmist bench` times it, and `unmist sample` runs the whole pipeline, which has learnt nothing: its pictures are noise.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
VAE = dict(
    block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4, norm_num_groups=32,
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
)  # fmt: skip
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768)
CLIP_BIG_G = dict(
    hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280,
    hidden_act="gelu",
)  # fmt: skip
CONFIGS = {
    "sd15": dict(
        index="StableDiffusionPipeline",
        unet=dict(
            sample_size=64, block_out_channels=[320, 640, 1280, 1280], attention_head_dim=8, cross_attention_dim=768,
            down_block_types=[CROSS_DOWN] * 3 + [DOWN], up_block_types=[UP] + [CROSS_UP] * 3,
        ),
        vae=VAE | dict(sample_size=512, scaling_factor=0.18215),
        text=[("text_encoder", CLIPTextModel, CLIP_L)],
    ),
    "sdxl": dict(
        index="StableDiffusionXLPipeline",
        unet=dict(
            sample_size=128, block_out_channels=[320, 640, 1280], attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048, down_block_types=[DOWN] + [CROSS_DOWN] * 2, up_block_types=[CROSS_UP] * 2 + [UP],
            transformer_layers_per_block=[1, 2, 10], use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ),
        vae=VAE | dict(sample_size=1024, scaling_factor=0.13025),
        text=[("text_encoder", CLIPTextModel, CLIP_L), ("text_encoder_2", CLIPTextModelWithProjection, CLIP_BIG_G)],
    ),
}  # fmt: skip


def randomise(model, seed):
    """Weights that keep activations near 1, with norms and biases that show if they are swapped or dropped, and
    attention that focuses on few tokens.
    """
    gen = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=gen)
        if p.dim() == 1:
            value = 0.05 * noise if name.endswith("bias") else 1 + 0.1 * noise
        else:
            gain = 1.8 if ".to_q." in name or ".to_k." in name else 1.0
            value = noise * gain / p[0].numel() ** 0.5
        p.data.copy_(value)


def make(family, folder):
    config = CONFIGS[family]
    torch.set_grad_enabled(False)
    gen = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=gen)  # noqa: E731
    size = config["unet"]["sample_size"]
    unet_in = dict(
        sample=draw(1, 4, size, size), timestep=torch.tensor([421.0]),
        encoder_hidden_states=draw(1, 77, config["unet"]["cross_attention_dim"]),
    )  # fmt: skip
    if family == "sdxl":
        unet_in |= dict(text_embeds=draw(1, 1280), time_ids=torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]]))
    vae_in = dict(latent=draw(1, 4, size, size))

    folder.mkdir(parents=True, exist_ok=True)
    index = dict(
        _class_name=config["index"], unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"],
        scheduler=["diffusers", "EulerDiscreteScheduler"],
    )  # fmt: skip
    index |= {name: ["transformers", model_class.__name__] for name, model_class, _ in config["text"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    betas = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    EulerDiscreteScheduler(**betas, steps_offset=1, timestep_spacing="leading").save_pretrained(folder / "scheduler")
    for seed, (name, model_class, text_config) in enumerate(config["text"]):
        torch.manual_seed(10 + seed)
        model = model_class(
            CLIPTextConfig(**text_config)
        ).half()  # transformers' own initialisation keeps activations near 1
        model.save_pretrained(folder / name)
    save_file(unet_in, folder / "unet_in.safetensors")
    save_file(vae_in, folder / "vae_in.safetensors")

    for name, model_class, seed in [("unet", UNet2DConditionModel, 1), ("vae", AutoencoderKL, 2)]:
        torch.set_default_dtype(torch.float16)  # half the memory, and already rounded
        model = model_class.from_config(config[name])
        torch.set_default_dtype(torch.float32)
        randomise(model, seed)
        model.save_pretrained(folder / name, max_shard_size="100GB")
        print(name, sum(p.numel() for p in model.parameters()), "parameters", flush=True)
        model = model.float().eval()
        if name == "unet":
            added = {key: unet_in.pop(key) for key in ("text_embeds", "time_ids") if key in unet_in}
            out = model(**unet_in, added_cond_kwargs=added).sample
        elif family == "sd15":
            out = model.decode(vae_in["latent"]).sample
        else:
            continue  # the same autoencoder as sd15's; at 1024 pixels its attention alone takes gigabytes
        save_file(dict(sample=out.contiguous()), folder / f"{name}_out.safetensors")
        print(name, "output: deviation", out.std().item(), "largest", out.abs().max().item(), flush=True)
        del model


def compare(found, expected):
    found, expected = load_file(found), load_file(expected)
    for name, truth in expected.items():
        difference = (found[name].float() - truth).double()
        relative = (difference.norm() / truth.double().norm()).item()
        print(
            f"{name} {list(truth.shape)}: relative L2 {relative:.2e}, largest difference {difference.abs().max():.2e}"
        )


def rounding(folder, height, width):
    """How much the U-Net magnifies rounding, shown by diffusers alone: its output for a part of the sample, and how far
    that moves when the sample, or the result of every product and norm, is rounded to f16. Writes part_in.safetensors
    and part_out.safetensors for `unmist run` and `compare`."""
    torch.set_grad_enabled(False)
    inputs = load_file(folder / "unet_in.safetensors")
    inputs["sample"] = inputs["sample"][:, :, :height, :width].contiguous()
    save_file(inputs, folder / "part_in.safetensors")
    model = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16).eval()
    for module in model.modules():  # one by one, so that there are never two full copies
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.float()
    added = {key: inputs.pop(key) for key in ("text_embeds", "time_ids") if key in inputs}

    def run(sample):
        return model(**inputs | dict(sample=sample), added_cond_kwargs=added).sample

    truth = run(inputs["sample"])
    save_file(dict(sample=truth.contiguous()), folder / "part_out.safetensors")

    def report(what, found):
        print(f"{what} rounded to f16: relative L2 {((found - truth).norm() / truth.norm()).item():.2e}", flush=True)

    rounded = inputs["sample"].half().float()
    report("the sample alone", run(rounded))
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)):
            module.register_forward_hook(lambda module, inputs, result: result.half().float())
    report("the results of all products and norms", run(rounded))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("make")
    command.add_argument("family", choices=CONFIGS)
    command.add_argument("folder", type=Path)
    command = commands.add_parser("compare")
    command.add_argument("found", type=Path)
    command.add_argument("expected", type=Path)
    command = commands.add_parser("rounding")
    command.add_argument("folder", type=Path)
    command.add_argument("--height", type=int, default=32)
    command.add_argument("--width", type=int, default=40)
    arguments = vars(parser.parse_args())
    dict(make=make, compare=compare, rounding=rounding)[arguments.pop("command")](**arguments)
