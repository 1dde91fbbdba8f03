"""Linear and mixed-integer programs as arrays, solved by HiGHS through OR-Tools' MathOpt. The only import of OR-Tools.

The model is one protocol buffer filled with whole arrays; MathOpt's own classes take a Python object per variable. Work
is limited in branch-and-bound nodes, never in seconds, so that the same program gives the same answer on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ortools.math_opt import model_parameters_pb2, model_pb2, parameters_pb2
from ortools.math_opt.core.python import solver
from ortools.math_opt.python import mathopt

Array = np.ndarray
# Of rows, of reduced costs and of integers. HiGHS prunes what is not better than its best by the last of these (1e-6
# unless told), and still calls the rest its bound.
TOLERANCE = 1e-9


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
        bound: Lower bound on the objective; infinite if there is no z at all.
        duals: Of the rows, for a program without integers; else empty.
    """

    values: Array | None
    bound: float
    duals: Array


def run(program: Program, nodes: int = 10_000, gap: float = 1e-7) -> Outcome:
    """Solve a program, looking at no more than `nodes` subproblems, to a relative gap of `gap`."""
    result = solver.solve(
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
        parameters.highs.double_options["mip_feasibility_tolerance"] = TOLERANCE
    parameters.highs.double_options["primal_feasibility_tolerance"] = TOLERANCE
    parameters.highs.double_options["dual_feasibility_tolerance"] = TOLERANCE
    return parameters


def _dense(sparse: object, size: int) -> Array:
    out = np.zeros(size)
    out[np.array(sparse.ids, dtype=np.intp)] = np.array(sparse.values)  # type: ignore[attr-defined]
    return out
