"""The partitioning integer program: numbers in, a proven choice out."""

from .base import Ready as Ready
from .base import ready as ready
from .free import PROVEN as PROVEN
from .ortools import BACKENDS as BACKENDS
from .problem import Edge as Edge
from .problem import Live as Live
from .problem import Problem as Problem
from .problem import Solution as Solution
from .problem import Spans as Spans
from .problem import evaluate as evaluate
from .problem import peak as peak
from .problem import spans as spans
from .rival import rivals as rivals
from .solve import solve as solve
from .whole import floors as floors
