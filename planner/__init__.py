"""meshplan: which mesh axis should split which dimension of every value of a JAX program."""

from planner import errors as errors
from planner.adapt import functional as functional
from planner.api import Planned as Planned
from planner.api import autoshard as autoshard
from planner.ask import why as why
from planner.audit.account import audit as audit
from planner.cost.hardware import PRESETS as PRESETS
from planner.cost.hardware import Chip as Chip
from planner.cost.hardware import Fabric as Fabric
from planner.cost.hardware import Machine as Machine
from planner.errors import PlanError as PlanError
from planner.make import make_plan as make_plan
from planner.options import compiler_options as compiler_options
from planner.plan import Plan as Plan
from planner.report import compare as compare
from planner.report import explain as explain
