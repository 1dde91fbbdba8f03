"""The paper's numbers beside ours: `python -m benchmarks.paper`. Pope et al. 2022, arXiv:2211.05102."""
