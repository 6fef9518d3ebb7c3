#!/usr/bin/env python3
"""Makes the files under tests/fixtures: what diffusers computes, for the Rust tests to agree with.

    python tools/make_fixtures.py             # every group
    python tools/make_fixtures.py unet2d rng  # some of them

Everything is computed on the CPU in float32 with one thread from fixed seeds, so that the same versions on the same
kind of processor write the same bytes. See tools/README.md for what each group holds.
"""

import argparse
import importlib
import os
import sys

# Set before torch and tokenizers are imported: one thread, so that sums are taken in one order; no network.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

# In the order in which they are made; a later group may read what an earlier one wrote.
GROUPS = [
    "unet2d",
    "pipelines",
    "schedulers",
    "rng",
    "brownian",
    "ops",
    "transformer_ops",
    "images",
    "stable_diffusion",
    "unet_ports",
    "sd_runs",
    "sd_schedulers",
    "single_file",
    "dialects",
    "lora",
    "gguf",
    "tokenizer",
    "attention",
    "activations",
    "loss",
    "gradients",
    "training",
    "score",
    "frames",
    "flow",
    "consistency",
    "repaint",
    "sdedit",
    "latent",
    "ldm",
    "attn_autoencoders",
    "anomaly",
    "editing",
    "classifier",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="*", help=f"groups to make (default: all): {', '.join(GROUPS)}")
    chosen = parser.parse_args().group
    unknown = sorted(set(chosen) - set(GROUPS))
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)}; the groups are: {', '.join(GROUPS)}")
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from fixtures import common

    common.set_up()
    for group in GROUPS:
        if not chosen or group in chosen:
            print(f"== {group}")
            common.begin_group(group)
            importlib.import_module(f"fixtures.{group}").make()


if __name__ == "__main__":
    main()
