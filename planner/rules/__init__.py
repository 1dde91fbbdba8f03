"""One factor rule per JAX primitive; importing this package registers them all."""

from planner.rules import conv as conv
from planner.rules import dot as dot
from planner.rules import elementwise as elementwise
from planner.rules import gather as gather
from planner.rules import linalg as linalg
from planner.rules import random as random
from planner.rules import reduce as reduce
from planner.rules import reshape as reshape
from planner.rules import shape as shape
from planner.rules import slicing as slicing
from planner.rules import window as window
from planner.rules.registry import register as register
from planner.rules.registry import registered as registered
from planner.rules.registry import rule_for as rule_for
from planner.rules.rule import Rule as Rule
