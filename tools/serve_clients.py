#!/usr/bin/env python3
"""Drives `unmist serve` with the clients that people use: OpenAI's, AUTOMATIC1111's (webuiapi), and a fuzzer of its own
description (schemathesis): see tools/README.md.

python3 tools/serve_clients.py target/release/unmist             # the two clients, and 2000 fuzzed cases
"""

import argparse
import base64
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

PROMPT = "a 3d red apple, blue background"


class Server:
    """The server, on a free port, until the end of a `with` block."""

    def __init__(self, program, *arguments):
        self.command = [program, "serve", "--port", "0", "--log", "off", *arguments]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("listening at "):
                self.url = line.split()[-1]
                # What it says later must not fill the pipe.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return self
        sys.exit(f"{' '.join(self.command)}: it does not listen")

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(60) == 0, "it ends in good order"


def by_command(program, *arguments):
    """The pixels that the command line makes."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.png"
        subprocess.run([program, "sample", *arguments, "--output", out], check=True, capture_output=True)
        return Image.open(out).convert("RGB").tobytes()


def pixels(data):
    from PIL import Image

    picture = data if isinstance(data, Image.Image) else Image.open(io.BytesIO(base64.b64decode(data)))
    return picture.convert("RGB").tobytes()


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.name = "picture.png"
    file.seek(0)
    return file


def start_and_mask():
    """A picture, and a mask that is transparent, so to be painted, in its left half."""
    from PIL import Image

    start = Image.new("RGB", (64, 64), (40, 90, 200))
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    return start, mask


def openai_client(program, server):
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["ddpm-fashion-32", "emoji-64", "tissue-32"]
    more = {"num_inference_steps": 3, "seed": 7}
    made = client.images.generate(
        model="emoji-64", prompt=PROMPT, n=2, size="64x64", response_format="b64_json", extra_body=more
    )
    expected = [by_command(program, PROMPT, "--steps", "3", "--seed", seed) for seed in "78"]
    assert [pixels(image.b64_json) for image in made.data] == expected

    events = list(client.images.generate(
        model="emoji-64", prompt=PROMPT, stream=True, partial_images=2, extra_body={"num_inference_steps": 8, "seed": 7}
    ))
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed" and "image_generation.partial_image" in kinds, kinds
    assert pixels(events[-1].b64_json) == by_command(program, PROMPT, "--steps", "8", "--seed", "7")

    start, mask = start_and_mask()
    edit = {"num_inference_steps": 4, "seed": 3, "strength": 0.75}
    made = client.images.edit(
        model="emoji-64", image=png(start), mask=png(mask), prompt=PROMPT, extra_body=edit
    )
    with tempfile.TemporaryDirectory() as folder:
        start.save(f"{folder}/start.png"), mask.save(f"{folder}/mask.png")
        expected = by_command(
            program, PROMPT, "--steps", "4", "--seed", "3", "--strength", "0.75", "--image", f"{folder}/start.png",
            "--mask", f"{folder}/mask.png", "--mask-reading", "erased",
        )
    assert pixels(made.data[0].b64_json) == expected
    for wrong, error in [({"model": "none"}, openai.BadRequestError), ({"size": "1x1"}, openai.BadRequestError)]:
        try:
            client.images.generate(prompt=PROMPT, **wrong)
            sys.exit(f"{wrong} was taken")
        except error as refused:
            assert refused.body["param"] in wrong and refused.body["message"], refused.body
    print("openai: generations, edits, streaming, models, errors")


def webui_client(program, server):
    import webuiapi

    host, port = server.url.removeprefix("http://").split(":")
    client = webuiapi.WebUIApi(host=host, port=int(port), sampler="DDIM", steps=3)
    assert "emoji-64" in client.util_get_model_names()
    assert client.get_options()["sd_model_checkpoint"] == "emoji-64"
    assert [sampler["name"] for sampler in client.get_samplers()][:2] == ["DDPM", "DDIM"]
    made = client.txt2img(prompt=PROMPT, seed=7, width=64, height=64, cfg_scale=2, eta=0)
    own = ["--steps", "3", "--guidance-scale", "2", "--scheduler", "DDIM"]
    assert pixels(made.image) == by_command(program, PROMPT, "--seed", "7", *own)
    assert made.info["seed"] == 7 and made.info["prompt"] == PROMPT
    start, _ = start_and_mask()
    from PIL import Image

    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    made = client.img2img(
        images=[start], mask_image=mask, prompt=PROMPT, seed=3, steps=4, denoising_strength=0.6, cfg_scale=2, eta=0,
        width=64, height=64,
    )
    with tempfile.TemporaryDirectory() as folder:
        start.save(f"{folder}/start.png"), mask.save(f"{folder}/mask.png")
        expected = by_command(
            program, PROMPT, "--seed", "3", "--steps", "4", "--strength", "0.6", "--guidance-scale", "2", "--scheduler",
            "DDIM", "--image", f"{folder}/start.png", "--mask", f"{folder}/mask.png",
            "--mask-blur", "4", "--padding-mask-crop", "0",  # what the client asks for unless it is told otherwise
        )
    assert pixels(made.image) == expected
    assert client.get_progress()["progress"] == 0
    running = threading.Thread(target=client.txt2img, kwargs={"prompt": PROMPT, "steps": 400, "seed": 1})
    running.start()
    while not client.get_progress()["state"]["sampling_step"]:
        time.sleep(0.05)
    client.interrupt()
    running.join(60)
    assert not running.is_alive(), "it was interrupted"
    print("webuiapi: txt2img, img2img with a mask, options, models, samplers, progress, interrupt")


def fuzz(server, cases):
    """Requests made from the description, sound and unsound: none may fail inside the server, or be answered otherwise
    than described."""
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    operations = sum(map(len, paths.values()))
    each = max(cases // operations, 1) + 1
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    program = Path(sys.executable).parent / "schemathesis"
    command = [
        program, "run", f"{server.url}/openapi.json", "--checks", checks, "--max-examples", str(each), "--seed", "1",
        "--request-timeout", "120", "--suppress-health-check", "all", "--mode", "all",
        # Not ready is 503, and no failure.
        "--exclude-path-regex", "health/ready",
    ]
    # It keeps what it found in the folder where it runs.
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NO_COLOR": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode != 0:
        sys.exit(done.stdout[-20_000:] + done.stderr)
    made = re.search(r"(\d+) generated", done.stdout)
    print(f"schemathesis: {made[1]} cases, none failed inside the server or was answered otherwise than described")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="unmist's binary")
    parser.add_argument("--cases", type=int, default=2000, metavar="N", help="fuzzed requests [default: 2000]")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    with Server(program) as server:
        openai_client(program, server)
        webui_client(program, server)
    # Small and few, so that there is time for many.
    with Server(program, "--max-pixels", "4096", "--max-steps", "2", "--max-pictures", "2") as server:
        fuzz(server, arguments.cases)


if __name__ == "__main__":
    main()
