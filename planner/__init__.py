"""meshplan: which mesh axis should split which dimension of every value of a JAX program."""
