"""One plan for all processes of a `jax.distributed` job: the first one plans, the others take its plan.

Every process must compile the same program, or the first collective waits for ever. So whatever goes wrong anywhere (no
plan fits, a process traced another program, it was given another plan file) is told to all, and all raise.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from planner.errors import PlanError, PlanMismatchError
from planner.plan import Plan

MESSAGE = 1024
"""Bytes of an error message that processes tell each other."""


def spans_processes(mesh: Any) -> bool:
    """Whether a mesh has devices of all processes, more than one. On part of them each process plans alone."""
    if not isinstance(mesh, Mesh) or jax.process_count() == 1:
        return False
    return len({d.process_index for d in mesh.devices.flat}) == jax.process_count()


def agreed(make: Callable[[], Plan], fits: Callable[[Plan], None]) -> Plan:
    """The plan of the first process, in every process.

    Args:
        make: Makes the plan, in the first process only.
        fits: Raises PlanError where the plan is not for what this process is about to run.

    Raises:
        PlanError: In every process, what any of them raised.
    """
    plan, failure = _tried(make) if jax.process_index() == 0 else (None, "")
    told = json.loads(_from_first(json.dumps({"plan": plan.to_json() if plan else "", "failure": failure})))
    if told["failure"]:
        raise PlanError(f"process 0: {told['failure']}")
    plan = plan or Plan.from_json(told["plan"])
    failures = _from_all(_tried(lambda: fits(plan))[1])
    if any(failures):
        raise PlanMismatchError("; ".join(f"process {i}: {text}" for i, text in enumerate(failures) if text))
    return plan


def _tried(f: Callable[[], Any]) -> tuple[Any, str]:
    """What `f` returns, or the message of what it raises."""
    try:
        return f(), ""
    except PlanError as error:
        return None, str(error)


def _from_first(text: str) -> str:
    """The first process's text, in every process."""
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        padded[:] = data
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)).decode()


def _from_all(text: str) -> list[str]:
    """Each process's text, cut to MESSAGE bytes, in every process."""
    data = np.zeros(MESSAGE, np.uint8)
    mine = text.encode()[:MESSAGE]
    data[: len(mine)] = np.frombuffer(mine, np.uint8)
    every = np.asarray(multihost_utils.process_allgather(data), np.uint8).reshape(jax.process_count(), MESSAGE)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in every]
