"""Linear and mixed-integer programs as arrays, solved by HiGHS or CP-SAT. The only import of OR-Tools.

The model is one protocol buffer filled with whole arrays; OR-Tools' own classes take a Python object per variable. Work
is limited in branch-and-bound nodes or in deterministic time, never in seconds, so that the same program gives the same
answer on every machine.

CP-SAT takes integers only: costs and rows are scaled to some, and rounded so that whatever was possible still is, and
costs no more. Its bound so stays a bound, and what breaks a row by less than the rounding is cut off by the caller, as
it is for HiGHS with its tolerances. Linear programs, and programs with unbounded variables, are HiGHS's in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from ortools.math_opt import model_parameters_pb2, model_pb2, parameters_pb2
from ortools.math_opt.core.python import solver
from ortools.math_opt.python import mathopt
from ortools.sat import cp_model_pb2, sat_parameters_pb2
from ortools.sat.python import cp_model_helper

Array = np.ndarray
# Of rows, of reduced costs and of integers. HiGHS prunes what is not better than its best by the last of these (1e-6
# unless told), and still calls the rest its bound.
TOLERANCE = 1e-9
BACKENDS = ("highs", "cp-sat")
PRECISION = 1 << 30  # steps of the largest coefficient of a row
TOTAL = 1 << 52  # steps of the costs of all variables together: as many as doubles tell apart
OUT_OF_NODES = "HighsModelStatus unimplemented: 16"  # kSolutionLimit
WIDER = (1e-4, 1e-3, 1e-2, 1e-1)
PACE = 1 / 30  # deterministic seconds of CP-SAT for a node of HiGHS


@dataclass(frozen=True)
class Program:
    """Minimise `cost @ z + offset` subject to `low ≤ A @ z ≤ high`, z in [0, upper], some z integer.

    Attributes:
        cost: Shape [variables], of the order of 1.
        upper: Shape [variables], may be infinite.
        integer: Mask, shape [variables].
        rows: Row of each non-zero of A; non-zeros are sorted by row, then column.
        cols: Column of each non-zero.
        values: Value of each non-zero.
        low: Shape [rows].
        high: Shape [rows].
        offset: Added to the objective.
    """

    cost: Array
    upper: Array
    integer: Array
    rows: Array
    cols: Array
    values: Array
    low: Array
    high: Array
    offset: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What HiGHS says.

    Attributes:
        values: The best z found, or None.
        bound: Lower bound on the objective; infinite if there is no z at all, minus infinity if nothing was proven.
        duals: Of the rows, for a program without integers; else empty.
    """

    values: Array | None
    bound: float
    duals: Array


def run(program: Program, nodes: int = 10_000, gap: float = 1e-7, backend: str = "highs") -> Outcome:
    """Solve a program, looking at no more than `nodes` subproblems, to a relative gap of `gap`.

    Args:
        program: Without integers, the outcome has duals.
        nodes: Also the limit of CP-SAT, in its unit of work.
        gap: Where to stop.
        backend: One of BACKENDS. CP-SAT takes all variables of an integer program as integers: in a marginal encoding
            they are with the strategies.
    """
    if backend == "cp-sat" and program.integer.any() and np.isfinite(program.upper).all():
        return _cp_sat(program, nodes, gap)
    return _highs(program, nodes, gap)


def _highs(program: Program, nodes: int, gap: float) -> Outcome:
    """Where the nodes run out MathOpt 9.14 only raises, so wider gaps are tried, which need fewer."""
    for wide in (gap, *(g for g in WIDER if g > gap)):
        try:
            return _outcome(program, _solved(program, nodes, wide))
        except Exception as error:  # its StatusNotOk has no type that can be imported
            if OUT_OF_NODES not in str(error):
                raise
    return Outcome(None, -np.inf, np.zeros(0))


def _solved(program: Program, nodes: int, gap: float) -> Any:
    return solver.solve(
        _model(program),
        mathopt.SolverType.HIGHS.value,
        mathopt.StreamableSolverInitArguments().to_proto(),
        _parameters(nodes, gap, bool(program.integer.any())),
        model_parameters_pb2.ModelSolveParametersProto(),
        None,
        mathopt.CallbackRegistration().to_proto(),
        None,
        None,
    )


def _outcome(program: Program, result: Any) -> Outcome:
    reason = result.termination.reason
    if reason in (mathopt.TerminationReason.INFEASIBLE.value, _INFEASIBLE_OR_UNBOUNDED):
        return Outcome(None, np.inf, np.zeros(0))
    bound = result.termination.objective_bounds.dual_bound - TOLERANCE * bool(program.integer.any())
    primal = next((s.primal_solution for s in result.solutions if s.HasField("primal_solution")), None)
    dual = next((s.dual_solution for s in result.solutions if s.HasField("dual_solution")), None)
    values = None if primal is None else _dense(primal.variable_values, len(program.cost))
    duals = np.zeros(0) if dual is None else _dense(dual.dual_values, len(program.low))
    return Outcome(values, bound, duals)


_INFEASIBLE_OR_UNBOUNDED = mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED.value


def _model(program: Program) -> model_pb2.ModelProto:
    model = model_pb2.ModelProto()
    n, m = len(program.cost), len(program.low)
    model.variables.ids.extend(range(n))
    model.variables.lower_bounds.extend(np.zeros(n))
    model.variables.upper_bounds.extend(program.upper)
    model.variables.integers.extend(program.integer.tolist())
    used = np.flatnonzero(program.cost)
    model.objective.offset = program.offset
    model.objective.linear_coefficients.ids.extend(used)
    model.objective.linear_coefficients.values.extend(program.cost[used])
    model.linear_constraints.ids.extend(range(m))
    model.linear_constraints.lower_bounds.extend(program.low)
    model.linear_constraints.upper_bounds.extend(program.high)
    model.linear_constraint_matrix.row_ids.extend(program.rows)
    model.linear_constraint_matrix.column_ids.extend(program.cols)
    model.linear_constraint_matrix.coefficients.extend(program.values)
    return model


def _parameters(nodes: int, gap: float, integers: bool) -> parameters_pb2.SolveParametersProto:
    parameters = parameters_pb2.SolveParametersProto()
    if integers:
        parameters.node_limit = nodes
        parameters.relative_gap_tolerance = gap
        parameters.absolute_gap_tolerance = 0.0
        parameters.presolve = parameters_pb2.EMPHASIS_OFF  # there is nothing left for it: it takes most of the time
        parameters.highs.double_options["mip_feasibility_tolerance"] = TOLERANCE
    parameters.highs.double_options["primal_feasibility_tolerance"] = TOLERANCE
    parameters.highs.double_options["dual_feasibility_tolerance"] = TOLERANCE
    return parameters


def _dense(sparse: object, size: int) -> Array:
    out = np.zeros(size)
    out[np.array(sparse.ids, dtype=np.intp)] = np.array(sparse.values)  # type: ignore[attr-defined]
    return out


def _cp_sat(program: Program, nodes: int, gap: float) -> Outcome:
    unit = TOTAL / max(1.0, float(np.abs(program.cost) @ program.upper) + abs(program.offset))
    unit = 2.0 ** np.floor(np.log2(unit))
    offset = int(np.floor(program.offset * unit))
    response = solved(
        _cp_model(program, np.floor(program.cost * unit).astype(np.int64), offset), cp_parameters(nodes, gap)
    )
    if response.status == cp_model_pb2.INFEASIBLE:
        return Outcome(None, np.inf, np.zeros(0))
    values = np.array(response.solution, float) if response.solution else None
    bound = response.best_objective_bound / unit
    return Outcome(values, max(bound, _cheapest(program)), np.zeros(0))


def _cheapest(program: Program) -> float:
    return program.offset + float(np.minimum(program.cost, 0.0) @ program.upper)


def solved(
    model: cp_model_pb2.CpModelProto, parameters: sat_parameters_pb2.SatParameters
) -> cp_model_pb2.CpSolverResponse:
    """What CP-SAT says of a model. A model that is none is a bug of ours and raises ValueError."""
    wrapper = cp_model_helper.SolveWrapper()
    wrapper.set_parameters(parameters)
    response = wrapper.solve(model)
    if response.status == cp_model_pb2.MODEL_INVALID:
        raise ValueError(response.solution_info)
    return response


def cp_parameters(nodes: int, gap: float) -> sat_parameters_pb2.SatParameters:
    """One worker, the same steps on every machine."""
    return sat_parameters_pb2.SatParameters(
        num_workers=1,
        random_seed=0,
        linearization_level=2,
        relative_gap_limit=gap,
        absolute_gap_limit=0.0,
        max_deterministic_time=nodes * PACE,
        # 9.15.6755 calls some feasible models infeasible with it: OR-Tools issues 5003, 5274, 5293.
        auto_detect_greater_than_at_least_one_of=False,
    )


def _cp_model(program: Program, cost: Array, offset: int) -> cp_model_pb2.CpModelProto:
    model = cp_model_pb2.CpModelProto()
    for upper in program.upper.astype(np.int64).tolist():
        model.variables.add(domain=(0, upper))
    used = np.flatnonzero(cost)
    model.objective.vars.extend(used)
    model.objective.coeffs.extend(cost[used])
    model.objective.offset = offset
    edges = np.searchsorted(program.rows, np.arange(len(program.low) + 1))
    for r, (first, last) in enumerate(pairwise(edges.tolist())):
        cols, values = program.cols[first:last], program.values[first:last]
        low, high = float(program.low[r]), float(program.high[r])
        if low == high and (values == np.round(values)).all() and low == round(low):
            _add_row(model, cols, values.astype(np.int64), (int(low), int(low)))
            continue
        for sign, limit in ((1, high), (-1, -low)):
            if np.isfinite(limit):
                _add_rounded(model, cols, sign * values, limit, program.upper[cols])
    return model


def _add_rounded(model: cp_model_pb2.CpModelProto, cols: Array, values: Array, limit: float, upper: Array) -> None:
    """`values @ z[cols] ≤ limit`, with all rounding in favour of z ≥ 0."""
    exact = (values == np.round(values)).all()
    scale = 1.0 if exact else PRECISION / float(np.abs(values).max())
    whole = np.floor(values * scale).astype(np.int64)
    least, most = (int(part @ upper.astype(np.int64)) for part in (np.minimum(whole, 0), np.maximum(whole, 0)))
    top = min(most, max(least - 1, int(np.floor(limit) if exact else np.ceil(limit * scale))))
    _add_row(model, cols, whole, (least - 1, top))


def _add_row(model: cp_model_pb2.CpModelProto, cols: Array, values: Array, domain: tuple[int, int]) -> None:
    row = model.constraints.add().linear
    row.vars.extend(cols)
    row.coeffs.extend(values)
    row.domain.extend(domain)
