"""Where the measured pictures come from: stock diffusers, the unmist binary, or a safetensors file made earlier.

Every function returns float32 tensors [N, C, H, W] in [0, 1].
"""

import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

FASHION_NULL_CLASS = 10


def from_file(path):
    """Pictures written earlier by `unmist sample --output NAME.safetensors` (tensor `images`)."""
    return load_file(str(path))["images"].float()


def unmist(binary, arguments):
    """Run `unmist sample ARGUMENTS --output FILE` and read the pictures it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "images.safetensors"
        subprocess.run([binary, "sample", *map(str, arguments), "--output", str(output)], check=True)
        return from_file(output)


def fashion_with_unmist(binary, model, labels, seed, steps, guidance_scale, scheduler):
    """A hundred pictures per run; each run has the next seed."""
    common = ["--model", model, "--steps", steps, "--guidance-scale", guidance_scale, "--scheduler", scheduler]
    common += ["--use-clipped-model-output", "on"] if scheduler == "ddim" else []
    runs = []
    for run, now in enumerate(torch.as_tensor(labels).split(100)):
        classes = ",".join(str(label) for label in now.tolist())
        runs.append(unmist(binary, [*common, "--class", classes, "--batch-size", len(now), "--seed", seed + run]))
    return torch.cat(runs)


def emoji_with_unmist(binary, model, prompts, seed, steps, guidance_scale):
    """Twenty prompts per run; prompt i has seed + i."""
    common = ["--model", model, "--steps", steps, "--guidance-scale", guidance_scale]
    runs = []
    for start in range(0, len(prompts), 20):
        now = list(prompts[start : start + 20])
        seeds = ",".join(str(seed + start + i) for i in range(len(now)))
        runs.append(unmist(binary, [*now, *common, "--seed", seeds]))
    return torch.cat(runs)


@torch.no_grad()
def fashion_with_diffusers(model, labels, seed, steps, guidance_scale, scheduler, precision="f32"):
    """Class-conditional sampling with classifier-free guidance: eps = eps(null) + w (eps(class) - eps(null)).

    DDIM takes the noise that belongs to the clipped x_0 (use_clipped_model_output): guidance drives x_0 out of its
    range, and adding noise that belongs to a different x_0 leaves artefacts.

    With precision bf16 the U-Net computes in bf16, several times faster on CPUs that support it; the sample stays f32.
    """
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    unet = UNet2DModel.from_pretrained(model, subfolder="unet").float().eval()
    unet.to(memory_format=torch.channels_last)
    clipped = {"use_clipped_model_output": True} if scheduler == "ddim" else {}
    scheduler = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[scheduler].from_pretrained(model, subfolder="scheduler")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    size = unet.config.sample_size
    pictures = []
    for labels_now in torch.as_tensor(labels).split(100):
        count = len(labels_now)
        sample = torch.randn(count, 1, size, size, generator=generator)
        classes = torch.cat([labels_now, torch.full((count,), FASHION_NULL_CLASS)])
        for timestep in scheduler.timesteps:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                conditional, empty = unet(torch.cat([sample, sample]), timestep, classes).sample.float().chunk(2)
            noise_prediction = empty + guidance_scale * (conditional - empty)
            sample = scheduler.step(noise_prediction, timestep, sample, generator=generator, **clipped).prev_sample
        pictures.append(sample)
    return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def emoji_with_diffusers(model, prompts, seed, steps, guidance_scale):
    """The stock StableDiffusionPipeline in float32, a hundred prompts at a time."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for start in range(0, len(prompts), 100):
        images = pipeline(
            list(prompts[start : start + 100]),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type="pt",
        ).images
        pictures.append(images)
    return torch.cat(pictures)
