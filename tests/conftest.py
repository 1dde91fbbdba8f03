"""Eight simulated CPU devices for every test."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 8)
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
