"""Synthetic instances: tiny random ones, and layered graphs like a transformer's on a mesh."""

from __future__ import annotations

import itertools

import numpy as np

from planner.solve.problem import Edge, Live, Problem, evaluate, peak, spans


def tiny(seed: int, memory: bool = False, infinite: float = 0.15, tightness: float = 0.5) -> Problem:
    """A random problem small enough to enumerate: parallel edges, shared specs, infinities, edges with bytes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=rng.integers(2, 7))
    cost = [np.round(rng.random(k), 2) for k in sizes]
    for c in cost:
        c[rng.random(len(c)) < infinite / 3] = np.inf
    usage = [rng.integers(0, 9, k).astype(float) * memory for k in sizes]
    pairs = [rng.choice(len(sizes), 2, replace=False) for _ in range(rng.integers(1, 10))]
    edges = tuple(_edge(rng, int(u), int(v), sizes, infinite, memory) for u, v in pairs)
    live = spans((_live(rng, len(sizes), len(edges)) for _ in range(rng.integers(1, 5) if memory else 0)), len(sizes))
    problem = Problem(tuple(cost), edges, tuple(usage), live)
    if not memory:
        return problem
    peaks = sorted(peak(problem, choice) for choice in choices(problem))
    return Problem(tuple(cost), edges, tuple(usage), live, peaks[int(tightness**2 * (len(peaks) - 1))])


def _edge(rng, u, v, sizes, infinite, memory):
    rows, cols = rng.integers(1, sizes[u] + 1), rng.integers(1, sizes[v] + 1)
    cost = np.round(rng.random((rows, cols)), 2)
    cost[rng.random(cost.shape) < infinite] = np.inf
    usage = rng.integers(0, 5, cost.shape).astype(float) if memory and rng.random() < 0.5 else None
    return Edge(u, v, rng.integers(0, rows, sizes[u]), rng.integers(0, cols, sizes[v]), cost, usage)


def _live(rng, nodes, edges):
    return Live(
        tuple(np.flatnonzero(rng.random(nodes) < 0.7).tolist()),
        tuple(np.flatnonzero(rng.random(edges) < 0.7).tolist()),
    )


def choices(problem: Problem):
    return itertools.product(*(range(len(c)) for c in problem.cost))


def brute(problem: Problem) -> tuple[float, float]:
    """Least (excess, seconds) of any choice of finite cost; infinite if there is none."""
    best = (np.inf, np.inf)
    for choice in choices(problem):
        seconds = evaluate(problem, choice)
        if np.isfinite(seconds):
            best = min(best, (max(0.0, peak(problem, choice) - problem.limit), seconds))
    return best


def specs(axes: int, dims: int) -> list[tuple[int, ...]]:
    """Which dim each mesh axis splits; -1 for none."""
    return list(itertools.product(range(-1, dims), repeat=axes))


MESH = {2: (8, 4), 3: (8, 4, 2)}


def transformer(layers: int, axes: int = 2, seed: int = 0, rank: int = 2, width: int = 4096) -> Problem:
    """A chain of blocks of matmuls and elementwise operations whose strategies assign mesh axes to factors.

    Activations have `rank` dims, the last one of `width`; a matmul has one factor more, the contracted one. So there
    are (rank + 1) ** axes and (rank + 2) ** axes strategies.
    """
    return _Build(axes, seed, rank, width).model(layers)


class _Build:
    def __init__(self, axes: int, seed: int, rank: int, width: int) -> None:
        self.mesh, self.width, self.rng = MESH[axes], width, np.random.default_rng(seed)
        self.axes, self.rank, self.tokens = axes, rank, 8192
        self.cost, self.usage, self.edges, self.shown, self.tables = [], [], [], [], {}

    def shards(self, spec, dims):
        return np.prod([a for a, d in zip(self.mesh, spec) if d in dims])

    def local(self, nbytes, spec):
        return nbytes / self.shards(spec, range(self.rank))

    def node(self, cost, usage, shown):
        self.cost.append(np.asarray(cost) * self.rng.uniform(0.9, 1.1))
        self.usage.append(np.asarray(usage, dtype=float))
        self.shown.append(shown)
        return len(self.cost) - 1

    def connect(self, u, v, wanted, nbytes):
        rows, row = np.unique(np.array(self.shown[u]), axis=0, return_inverse=True)
        cols, col = np.unique(np.array(wanted), axis=0, return_inverse=True)
        self.edges.append(Edge(u, v, row.ravel(), col.ravel(), *self.table(rows, cols, nbytes)))

    def table(self, rows, cols, nbytes):
        key = (rows.tobytes(), cols.tobytes(), nbytes)
        if key not in self.tables:
            pairs = [[(p, q) for q in cols.tolist()] for p in rows.tolist()]
            cost = np.array([[self.reshard(p, q, nbytes) for p, q in line] for line in pairs])
            held = np.array([[self.local(nbytes, q) * (p != q) for p, q in line] for line in pairs])
            self.tables[key] = cost, held
        return self.tables[key]

    def reshard(self, p, q, nbytes):
        local, seconds = self.local(nbytes, p), 0.0
        for a, (x, y) in enumerate(zip(p, q)):
            if x == y or x == -1:
                continue
            local *= self.mesh[a] if y == -1 else 1
            moved = local * (1 if y == -1 else 1 / self.mesh[a])
            seconds += 1e-6 * self.mesh[a] + moved / (45e9 * (1 + 0.1 * a))
        return seconds

    def weight(self, k, n):
        options = specs(self.axes, 2)
        nbytes = np.array([8 * k * n / self.shards(s, (0, 1)) for s in options])
        return self.node(np.zeros(len(options)), nbytes, options)

    def matmul(self, source, k, n):
        """Factors: the dims of the result, then the contracted one."""
        last, t = self.rank - 1, self.tokens
        options = specs(self.axes, self.rank + 1)
        weight = self.weight(k, n)
        flops = [2 * t * k * n / self.shards(s, range(self.rank + 1)) for s in options]
        cost = [f / 200e12 + self.reduce(s, t * n * 2) for f, s in zip(flops, options)]
        shown = [tuple(d if d <= last else -1 for d in s) for s in options]
        out = self.node(cost, [self.local(2 * t * n, s) for s in options], shown)
        rename = {d: d for d in range(last)} | {last + 1: last}
        left = [tuple(rename.get(d, -1) for d in s) for s in options]
        right = [tuple({last + 1: 0, last: 1}.get(d, -1) for d in s) for s in options]
        self.connect(source, out, left, 2 * t * k)
        self.connect(weight, out, right, 2 * k * n)
        return out

    def reduce(self, spec, nbytes):
        group = self.shards(spec, (self.rank,))
        return 0.0 if group == 1 else 2e-6 + 2 * self.local(nbytes, spec) * (1 - 1 / group) / 45e9

    def unary(self, sources, n):
        options, t = specs(self.axes, self.rank), self.tokens
        nbytes = np.array([self.local(2 * t * n, s) for s in options])
        out = self.node(nbytes * 3 / 800e9, nbytes, options)
        for source in sources:
            self.connect(source, out, options, 2 * t * n)
        return out

    def model(self, layers):
        d = self.width
        x = self.unary([], d)
        for _ in range(layers):
            h = self.unary([x], d)
            q, k, v = (self.matmul(h, d, d) for _ in range(3))
            a = self.unary([self.unary([q, k], d), v], d)
            x = self.unary([x, self.matmul(a, d, d)], d)
            h = self.unary([x], d)
            up, gate = self.matmul(h, d, 4 * d), self.matmul(h, d, 4 * d)
            x = self.unary([x, self.matmul(self.unary([up, gate], 4 * d), 4 * d, d)], d)
        return Problem(tuple(self.cost), tuple(self.edges), tuple(self.usage), spans(self.lives(), len(self.cost)))

    def lives(self):
        """Weights always; activations from birth to last use; an edge's gathered copy while its user runs."""
        last = list(range(len(self.cost)))
        for e in self.edges:
            last[e.u] = max(last[e.u], e.v)
        sources = {e.v for e in self.edges}
        always = [n for n in range(len(self.cost)) if n not in sources]
        return tuple(
            Live(
                tuple(sorted({*always, *(n for n in range(now + 1) if last[n] >= now)})),
                tuple(i for i, e in enumerate(self.edges) if e.v == now),
                f"step {now}",
            )
            for now in range(len(self.cost))
            if now not in always
        )
