#!/usr/bin/env python3
"""Three workers behind HAProxy as docs/scaling/haproxy.cfg has it, and one of them killed in the middle: see
docs/scaling.md.

python3 tools/serve_balanced.py target/release/unmist
"""

import argparse
import ast
import base64
import collections
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
SCALING = ROOT / "docs/scaling"
FRONT = "http://127.0.0.1:7800"
PORTS = [7801, 7802, 7803]
REQUESTS, CLIENTS, SEEDS = 60, 12, 6


def ask(url, body):
    """The picture's bytes and who made it; or the status code of a refusal."""
    request = urllib.request.Request(
        f"{url}/v1/images/generations", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return base64.b64decode(json.load(answer)["data"][0]["b64_json"])


def body(seed):
    return {"prompt": "a 3d red apple, blue background", "seed": seed, "num_inference_steps": 6}


def until(what, is_so):
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def worker(program, port):
    return subprocess.Popen([program, "serve", "--port", str(port), "--log", "off"], stderr=subprocess.DEVNULL)


def balanced(program):
    workers = [worker(program, port) for port in PORTS]
    balancer = subprocess.Popen(["haproxy", "-db", "-f", SCALING / "haproxy.cfg"], stderr=subprocess.DEVNULL)
    try:
        for port in PORTS:
            until(f"the worker at {port}", lambda: answers(f"http://127.0.0.1:{port}/health/ready"))
        until("the balancer", lambda: answers(f"{FRONT}/health/ready"))
        expected = {seed: ask(f"http://127.0.0.1:{PORTS[0]}", body(seed)) for seed in range(SEEDS)}
        jobs = collections.deque(range(REQUESTS))
        outcomes, lock = collections.Counter(), threading.Lock()
        begun = threading.Event()

        def client():
            while True:
                with lock:
                    if not jobs:
                        return
                    seed = jobs.popleft() % SEEDS
                    if len(jobs) < REQUESTS // 2:
                        begun.set()
                for attempt in range(2):
                    try:
                        right = ask(FRONT, body(seed)) == expected[seed]
                        outcome = "right" if right else "wrong"
                    except (OSError, urllib.error.HTTPError) as error:
                        with lock:
                            outcomes["lost"] += 1
                        print(f"a request failed ({error}); again, with its seed")
                        continue
                    with lock:
                        outcomes[outcome] += 1
                    break

        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in clients:
            thread.start()
        begun.wait()
        workers[1].send_signal(signal.SIGKILL)
        for thread in clients:
            thread.join()
        print(f"{REQUESTS} requests, one worker of three killed in the middle: {dict(outcomes)}")
        assert outcomes["right"] == REQUESTS and outcomes["wrong"] == 0, outcomes
        assert outcomes["lost"] <= 1, "only the one in flight on the worker that was killed"
        # Events arrive as they happen: the first long before the last.
        times = []
        stream = dict(body(1), stream=True, partial_images=2, num_inference_steps=30)
        request = urllib.request.Request(
            f"{FRONT}/v1/images/generations", json.dumps(stream).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            times = [time.monotonic() for line in answer if line.startswith(b"event:")]
        assert len(times) >= 2 and times[-1] - times[0] > 0.1, f"{len(times)} events, held back"
        # The worker comes back, and is used again.
        workers[1] = worker(program, PORTS[1])
        until("the worker is back", lambda: answers(f"http://127.0.0.1:{PORTS[1]}/health/ready"))
        # One that is told to end leaves without a loss.
        results = []
        thread = threading.Thread(target=lambda: results.append(ask(FRONT, body(2)) == expected[2]))
        thread.start()
        workers[0].send_signal(signal.SIGTERM)
        thread.join()
        assert results == [True] and workers[0].wait(60) == 0
    finally:
        for process in [balancer, *workers]:
            process.kill()
            process.wait()


def slurm(program):
    """The script's array, part by part, and a part started again."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "unmist").symlink_to(program)
        lines = [json.dumps({"prompt": ["a fox"], "seed": [seed], "steps": 2}) for seed in range(5)]
        (folder / "jobs.jsonl").write_text("\n".join(lines))
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_COUNT": "2"}
        made = []
        for part in ["1", "2", "2"]:
            done = subprocess.run(
                ["bash", SCALING / "slurm.sh", folder / "jobs.jsonl", folder / "out"],
                env=environment | {"SLURM_ARRAY_TASK_ID": part}, capture_output=True, text=True, check=True, cwd=ROOT,
            )
            made.append([json.loads(line)["status"] for line in done.stdout.splitlines()])
        assert made == [["made"] * 3, ["made"] * 2, ["there"] * 2], made
        assert len(list((folder / "out").iterdir())) == 5
    print("slurm.sh: every part once")


def syntax(program):
    """What cannot run here: its syntax, and that its flags and routes are there."""
    told = subprocess.run([program, "serve", "--help"], capture_output=True, text=True).stdout
    options = set(re.findall(r"--[a-z-]+", told))
    routes = (ROOT / "src/serve/api/mod.rs").read_text()
    ray = (SCALING / "ray_serve.py").read_text()
    ast.parse(ray)
    kubernetes = (SCALING / "kubernetes.yaml").read_text()
    for text in [ray, kubernetes]:
        used = set(re.findall(r"--[a-z][a-z-]+", text))
        assert used <= options, f"there are no {used - options}"
        for route in re.findall(r"/(?:v1|health)/[a-z/]+", text):
            assert f'"{route}"' in routes, route
    assert "unmist_requests_waiting" in (ROOT / "src/serve/metrics.rs").read_text()
    parts = {part["kind"]: part for part in yaml.safe_load_all(kubernetes)}
    assert list(parts) == ["Deployment", "Service", "ScaledObject"], parts.keys()
    # The third is KEDA's, of which Kubernetes knows nothing.
    for kind in ["Deployment", "Service"]:
        kubernetes_validate.validate(parts[kind], kubernetes_validate.latest_version(), strict=True)
    print("ray_serve.py: syntax; kubernetes.yaml: Kubernetes' schema; both: flags, routes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="unmist's binary")
    program = parser.parse_args().program.resolve()
    if subprocess.run(["which", "haproxy"], capture_output=True).returncode != 0:
        sys.exit("HAProxy is not installed: apt-get install haproxy")
    syntax(program)
    slurm(program)
    balanced(program)


if __name__ == "__main__":
    main()
