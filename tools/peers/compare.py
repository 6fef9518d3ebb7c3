#!/usr/bin/env python3
"""Times unmist and its peers at the shapes of Stable Diffusion 1.5's U-Net, in turns: see tools/README.md.

cargo build --release
cargo build --release --manifest-path tools/peers/Cargo.toml --features meganeura,burn,candle
python3 tools/peers/compare.py --engines unmist meganeura burn candle torch > table.md
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [
    "linear:4096x320x320", "linear:4096x320x2560", "linear:1024x640x5120", "linear:256x1280x1280",
    "conv:64x64x320:320", "conv:32x32x640:640", "conv:16x16x1280:1280",
    "attention:4096x4096x8x40", "attention:1024x1024x8x80", "attention:4096x77x8x40",
]
ENGINES = ["unmist", "meganeura", "burn", "candle", "torch"]


def flops(shape):
    kind, *sizes = re.split("[:x]", shape)
    a, b, c, d = (*map(int, sizes), 1)[:4]
    return {"linear": 2 * a * b * c, "conv": 18 * a * b * c * d, "attention": 4 * a * b * c * d}[kind]


def unmist(shape, seconds, program):
    """Wall time of the variant that the rules choose on CPU drivers; `cargo test` has checked it."""
    kind, *sizes = re.split("[:x]", shape)
    a, b, c, *d = map(int, sizes)
    shapes = {
        "linear": ("linear", f"1x{a}x{b},{c}x{b}", ""),
        "conv": ("conv2d", f"1x{a}x{b}x{c},{d and d[0]}x3x3x{c}", "padding=1"),
        "attention": ("attention", f"1x{a}x{c * (d or [1])[0]},1x{b}x{c * (d or [1])[0]},1x{b}x{c * (d or [1])[0]}",
                      f"heads={c}"),
    }
    operation, text, attributes = shapes[kind]
    command = [program, "bench", "--kernel", operation, "--shape", text, "--seconds", str(seconds)]
    command += ["--no-check", "--variant", "winograd4_shuffle" if kind == "conv" else "shuffle"]
    command += ["--attributes", attributes] if attributes else []
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"([\d.]+) ms ±", done.stdout)
    return float(found[1]) / 1e3 if found else fail("unmist", shape, done)


def peer(engine, shape, seconds, program):
    done = subprocess.run([program, engine, shape, str(seconds)], capture_output=True, text=True)
    if done.returncode != 0:
        return fail(engine, shape, done)
    least, median, processor, error = map(float, done.stdout.split()[-4:])
    if error > 1e-4:
        print(f"{engine} {shape}: error {error}", file=sys.stderr)
    return median


def torch(shape, seconds):
    import torch as t

    kind, *sizes = re.split("[:x]", shape)
    a, b, c, *d = map(int, sizes)
    make = {
        "linear": lambda: (t.rand(a, b), t.rand(c, b)),
        "conv": lambda: (t.rand(1, c, a, b), t.rand(d[0], c, 3, 3)),
        "attention": lambda: (t.rand(1, c, a, d[0]), t.rand(1, c, b, d[0]), t.rand(1, c, b, d[0])),
    }[kind]
    run = {
        "linear": t.nn.functional.linear,
        "conv": lambda x, w: t.nn.functional.conv2d(x, w, padding=1),
        "attention": t.nn.functional.scaled_dot_product_attention,
    }[kind]
    tensors, times = make(), []
    with t.inference_mode():
        run(*tensors)
        begin = time.time()
        while len(times) < 3 or time.time() - begin < seconds:
            start = time.time()
            run(*tensors)
            times.append(time.time() - start)
    return sorted(times)[len(times) // 2]


def fail(engine, shape, done):
    print(f"{engine} {shape}: status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}", file=sys.stderr)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=3, help="the least median of so many turns counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--unmist", type=Path, default=ROOT / "target/release/unmist")
    parser.add_argument("--peers", type=Path, default=ROOT / "tools/peers/target/release/peers")
    arguments = parser.parse_args()
    print("| shape |", " | ".join(f"{engine}, ms | GFLOP/s" for engine in arguments.engines), "|")
    print("|---|" + "---|---|" * len(arguments.engines), flush=True)
    for shape in arguments.shapes:
        best = {}
        for _ in range(arguments.rounds):
            for engine in arguments.engines:
                if engine in best and best[engine] is None:
                    continue
                if engine == "unmist":
                    found = unmist(shape, arguments.seconds, arguments.unmist)
                elif engine == "torch":
                    found = torch(shape, arguments.seconds)
                else:
                    found = peer(engine, shape, arguments.seconds, arguments.peers)
                best[engine] = min(found, best.get(engine) or found) if found else None
        cells = (f"{t * 1e3:.1f} | {flops(shape) / t / 1e9:.1f}" if t else "fails | " for t in best.values())
        print(f"| {shape} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
