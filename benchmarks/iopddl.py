"""The contest's instances."""
import gzip, json
import numpy as np
from planner.solve import Edge, Problem
from planner.solve.problem import Spans
def read(path):
    with (gzip.open if str(path).endswith("gz") else open)(path) as f:
        data = json.load(f)["problem"]
    one = {}
    def same(values):
        a = np.array(values, float)
        a[a >= 1e18] = np.inf
        return one.setdefault(a.tobytes(), a)
    cost = tuple(map(same, data["nodes"]["costs"])); usage = tuple(map(same, data["nodes"]["usages"]))
    aranges = {}
    def ar(k): return aranges.setdefault(k, np.arange(k))
    tabs = {}
    def table(c, ku, kv):
        a = np.array(c, float).reshape(ku, kv); a[a >= 1e18] = np.inf
        return tabs.setdefault((a.shape, a.tobytes()), a)
    edges = tuple(Edge(u, v, ar(len(cost[u])), ar(len(cost[v])), table(c, len(cost[u]), len(cost[v]))) for (u, v), c in zip(data["edges"]["nodes"], data["edges"]["costs"]))
    iv = np.array(data["nodes"]["intervals"])
    some = np.flatnonzero(iv[:, 0] < iv[:, 1])
    live = Spans(len(cost), some, iv[some, 0], iv[some, 1], tuple("" for _ in range(iv.max())))
    return Problem(cost, edges, usage, live, data["usage_limit"])
