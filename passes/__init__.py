"""Program in, program out: rewrites of jaxprs that obey a plan and decide nothing."""

from passes.ring import all_gather_matmul as all_gather_matmul
from passes.ring import all_gather_matmuls as all_gather_matmuls
from passes.ring import matmul_reduce_scatter as matmul_reduce_scatter
from passes.ring import rotated as rotated
