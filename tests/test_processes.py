"""Two real processes over gloo: one plan, one result; what differs between them is an error in both, and no hang."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh
from programs import mesh

from planner.processes import spans_processes

TESTS = Path(__file__).parent
PATIENCE = 120


def run(job: str, count: int = 2) -> list[str]:
    """What each process prints."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(TESTS / "worker.py"), job]
    processes = [
        subprocess.Popen(
            [*command, str(i), str(count), str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    try:
        done = [p.communicate(timeout=PATIENCE) for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert all(p.returncode == 0 for p in processes), done
    return [out.strip().splitlines()[-1] for out, _ in done]


def test_every_process_has_the_first_ones_plan_and_runs_it():
    first, second = run("same")
    assert first == second and first.startswith("plan ")


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("programs", "PlanMismatchError: process 1: the plan is for another program"),
        ("plans", "PlanMismatchError: process 1: this process was given plan"),
        ("memory", "PlanError: process 0: no plan fits"),
    ],
)
def test_what_differs_is_an_error_in_every_process(job, message):
    outcomes = run(job)
    assert all(message in outcome for outcome in outcomes), outcomes


def test_one_process_alone_has_nobody_to_ask():
    assert not spans_processes(mesh(8)) and not spans_processes(AbstractMesh((8,), ("x",)))
