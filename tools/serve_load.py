#!/usr/bin/env python3
"""Load on `unmist serve`: many clients at once, clients that vanish, send half a body or stay silent, cancels, changes
of models, for as long as is asked; and what a request costs beside the steps: see tools/README.md.

python3 tools/serve_load.py target/release/unmist --minutes 30
"""

import argparse
import base64
import collections
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from serve_clients import PROMPT, Server, by_command

CLOTHES = "ddpm-fashion-32"


def resident(process):
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def post(server, path, body, timeout=600):
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        return answer.read()


def counter(server, name):
    for line in get(server, "/metrics").decode().splitlines():
        if line.rsplit(" ", 1)[0] == name:
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def generation(seed, steps=4):
    return {"prompt": PROMPT, "seed": seed, "num_inference_steps": steps}


def picture(server, seed, steps=4):
    return base64.b64decode(post(server, "/v1/images/generations", generation(seed, steps))["data"][0]["b64_json"])


def raw(server, text):
    """A connection that has sent so much and no more."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(text)
    return connection


def at_once(work, count, clients):
    """Does `work(i)` for i below `count` with so many threads; how often each outcome was."""
    numbers, lock, outcomes = iter(range(count)), threading.Lock(), collections.Counter()

    def client():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            outcome = work(number)
            with lock:
                outcomes[outcome] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def vanish(server, number):
    body = json.dumps(generation(number, 300)).encode()
    head = "POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    kind = number % 4
    if kind == 0:  # nothing
        connection = raw(server, b"")
    elif kind == 1:  # half a head
        connection = raw(server, head.encode())
    elif kind == 2:  # half a body
        connection = raw(server, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
    else:  # all of it, and gone while it waits or runs
        connection = raw(server, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(random.random())
    connection.close()
    return "vanished"


def cancel(server, number):
    job = post(server, "/v1/jobs", {"prompt": [PROMPT], "seed": [number], "steps": 300})
    time.sleep(random.random() / 2)
    stop = urllib.request.Request(f"{server.url}/v1/jobs/{job['id']}", method="DELETE")
    urllib.request.urlopen(stop, timeout=60)
    return "cancelled"


def idle(server):
    end = time.monotonic() + 120
    while counter(server, "unmist_requests_running") + counter(server, "unmist_requests_waiting"):
        assert time.monotonic() < end, "something hangs"
        time.sleep(0.1)


def crowd(program, server):
    """200 requests by 32 clients; each answer is the picture that its seed has by itself, and the command
    line's."""
    expected = {seed: picture(server, seed) for seed in range(8)}
    own = by_command(program, PROMPT, "--seed", "3", "--steps", "4")
    from serve_clients import pixels

    assert pixels(base64.b64encode(expected[3])) == own
    began = time.monotonic()
    outcomes = at_once(lambda i: "right" if picture(server, i % 8) == expected[i % 8] else "wrong", 200, 32)
    took = time.monotonic() - began
    assert outcomes == {"right": 200}, outcomes
    print(f"200 requests by 32 clients: all right, {200 / took:.1f} pictures of 4 steps a second")


def unruly(server):
    silent = [raw(server, b"") for _ in range(50)]
    at_once(lambda i: vanish(server, i), 100, 16)
    at_once(lambda i: cancel(server, i), 100, 16)
    idle(server)
    assert picture(server, 1)
    for connection in silent:
        connection.close()
    print("50 silent clients, 100 that vanished, 100 cancels: nothing runs or waits afterwards")


def full(server):
    """More than may wait."""
    def one(number):
        try:
            picture(server, number, 20)
            return 200
        except urllib.error.HTTPError as error:
            assert error.headers["retry-after"]
            return error.code
    outcomes = at_once(one, 120, 120)
    assert set(outcomes) <= {200, 429} and outcomes[200] >= 64, outcomes
    print(f"120 at once, 64 may wait: {outcomes[200]} made, {outcomes[429]} turned away with 429")


def soak(server, minutes):
    """Two models in turn, cancels and vanishing clients among them; memory after each minute."""
    expected = {seed: picture(server, seed) for seed in range(4)}
    clothes = {"model": CLOTHES, "class": [3], "seed": [1], "steps": 4}
    end, memory, done = time.monotonic() + 60 * minutes, [], collections.Counter()
    while time.monotonic() < end:
        minute = time.monotonic() + 60
        while time.monotonic() < min(minute, end):
            def mixed(i):
                if i % 8 == 6:
                    return vanish(server, i // 8 + 3)
                if i % 8 == 7:
                    return cancel(server, i)
                if i % 8 == 5:
                    job = post(server, "/v1/jobs", clothes)
                    place = f"/v1/jobs/{job['id']}"
                    while (state := json.loads(get(server, place)))["status"] in ["queued", "running"]:
                        time.sleep(0.02)
                    return state["status"]
                return "right" if picture(server, i % 4) == expected[i % 4] else "wrong"
            done += at_once(mixed, 64, 16)
        idle(server)
        memory.append(resident(server.process))
    assert set(done) <= {"right", "vanished", "cancelled", "finished"}, done
    # The first minutes fill caches.
    settled = memory[len(memory) // 3 :]
    spread = (max(settled) - min(settled)) / min(settled)
    print(f"{minutes} minutes, {sum(done.values())} requests {dict(done)}: memory {min(settled) >> 20} to "
          f"{max(settled) >> 20} MiB after the first third ({100 * spread:.1f} %)")
    assert spread <= 0.05, f"memory after each minute, MiB: {[bytes >> 20 for bytes in memory]}"


def overhead(server):
    """What a request takes beside its steps and its decoding: its time seen by the client, less that of the run."""
    beside, runs = [], []
    picture(server, 1, 25)
    for _ in range(10):
        before = counter(server, "unmist_request_duration_seconds_sum")
        began = time.monotonic()
        picture(server, 1, 25)
        took = time.monotonic() - began
        run = counter(server, "unmist_request_duration_seconds_sum") - before
        beside.append(took - run)
        runs.append(run)
    print(f"a picture of 25 steps: the run {1e3 * statistics.median(runs):.0f} ms, beside it "
          f"{1e3 * statistics.median(beside):.1f} ms (medians of 10)")
    uploaded = counter(server, "unmist_uploaded_bytes_total")
    picture(server, 2, 25)
    assert counter(server, "unmist_uploaded_bytes_total") == uploaded, "the second request loads nothing"


def ends(program):
    """SIGTERM and SIGKILL in the middle."""
    with Server(program) as server:
        results = []
        thread = threading.Thread(target=lambda: results.append(picture(server, 1, 60)))
        thread.start()
        while not counter(server, "unmist_requests_running"):
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert results and server.process.wait(60) == 0, "what ran was finished"
    server = Server(program)
    server.__enter__()
    def one():
        try:
            picture(server, 1, 300)
        except OSError:
            results.append("lost")
    thread = threading.Thread(target=one)
    thread.start()
    while not counter(server, "unmist_requests_running"):
        time.sleep(0.02)
    server.process.kill()
    thread.join(30)
    assert results[-1] == "lost" and not thread.is_alive(), "its client hears of it at once"
    print("SIGTERM: what ran was finished; SIGKILL: its client heard of it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="unmist's binary")
    parser.add_argument("--minutes", type=int, default=30, metavar="N", help="of the soak [default: 30]")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{version}, {time.strftime('%Y-%m-%d')}", flush=True)
    with Server(program) as server:
        overhead(server)
        crowd(program, server)
        unruly(server)
        full(server)
        sys.stdout.flush()
        if arguments.minutes:
            soak(server, arguments.minutes)
    ends(program)


if __name__ == "__main__":
    main()
