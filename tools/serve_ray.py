#!/usr/bin/env python3
"""Runs docs/scaling/ray_serve.py under Ray Serve on this machine, with two GPUs that Ray is told of, and loads it: see
tools/README.md. One worker is killed in the middle; every picture must be the one that its seed has.

    python3 -m venv target/ray && target/ray/bin/pip install "ray[serve]" httpx
    target/ray/bin/python tools/serve_ray.py target/release/unmist
"""

import argparse
import base64
import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
URL = "http://127.0.0.1:8000"
CLIENTS, REQUESTS, SEEDS = 6, 6, 3


def picture(seed, patience=300):
    """The file, and how many tries it took."""
    body = {"prompt": "a 3d red apple, blue background", "seed": seed, "num_inference_steps": 4}
    end = time.monotonic() + patience
    tries = 0
    while True:
        tries += 1
        request = urllib.request.Request(
            URL + "/v1/images/generations", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=patience) as answer:
                return base64.b64decode(json.load(answer)["data"][0]["b64_json"]), tries
        except (urllib.error.HTTPError, urllib.error.URLError) as error:
            if time.monotonic() > end:
                sys.exit(f"no picture within {patience} s: {error}")
            time.sleep(1)


def workers(program):
    """The servers that Ray's replicas have started, by their process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        if command[:2] == [program.name.encode(), b"serve"] and b"RAY_" in environment:
            found.append(int(process.name))
    return found


def load(program):
    files, tries = collections.defaultdict(set), []

    def client():
        for i in range(REQUESTS):
            file, count = picture(i % SEEDS)
            files[i % SEEDS].add(file)
            tries.append(count)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    while len(tries) < CLIENTS:
        time.sleep(0.1)
    most = workers(program)
    os.kill(most[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(tries) == CLIENTS * REQUESTS
    assert all(len(same) == 1 for same in files.values()), "each seed has one picture, whoever makes it"
    again = sum(count > 1 for count in tries)
    print(f"{len(tries)} requests in {time.monotonic() - began:.0f} s, one of {len(most)} workers killed: "
          f"all answered, {again} of them at a later try; {len(workers(program))} workers at the end")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="unmist's binary")
    program = parser.parse_args().program.resolve()
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{program.parent}:{scripts}:{os.environ['PATH']}",
        "MODELS": str(ROOT / "weights"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    def ray(*arguments):
        subprocess.run([scripts / "ray", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)

    ray("start", "--head", "--num-gpus", "2", "--num-cpus", "4", "--include-dashboard", "false")
    served = subprocess.Popen(
        [scripts / "serve", "run", "ray_serve:app"], cwd=ROOT / "docs/scaling", env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        picture(0)
        load(program)
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(60)
        ray("stop")
    time.sleep(2)
    assert not workers(program), "a server outlived its replica"


if __name__ == "__main__":
    main()
