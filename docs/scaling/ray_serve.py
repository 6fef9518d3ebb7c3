"""Replicas of `unmist serve` under Ray Serve: serve run ray_serve:app. Each replica has a GPU and a server of its own,
and passes requests on to it."""

import os
import subprocess

import httpx
from fastapi import FastAPI, Request, Response
from ray import serve

api = FastAPI()


@serve.deployment(
    ray_actor_options={"num_gpus": 1},
    # One in flight a worker; the others wait at the router, which starts workers for them.
    max_ongoing_requests=1,
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 1},
    health_check_period_s=5,
    graceful_shutdown_timeout_s=150,
)
@serve.ingress(api)
class Worker:
    def __init__(self):
        models = os.environ.get("MODELS", "/models")
        command = ["unmist", "serve", "--port", "0", "--models", models, "--log", "off"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        lines = iter(self.process.stderr.readline, "")
        url = next(line.split()[-1] for line in lines if line.startswith("listening at "))
        self.client = httpx.AsyncClient(base_url=url, timeout=600)

    def check_health(self):
        if self.process.poll() is not None:
            raise RuntimeError("the server has ended")

    def __del__(self):
        self.process.terminate()

    @api.post("/v1/images/generations")
    async def generations(self, request: Request) -> Response:
        answer = await self.client.post("/v1/images/generations", json=await request.json())
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])


app = Worker.bind()
