"""What a `scan` equation says of its operands, in JAX 0.10 and 0.11."""

from typing import Any


def counts(eqn: Any) -> tuple[int, int]:
    """How many of its operands are constants, and how many are carried; what follows is scanned.

    JAX 0.10 has numbers in `num_consts` and `num_carry`, 0.11 a tree in `ft_in`, of three parts.
    """
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carry)
