"""Other people's models, as their users get them from PyPI, without weights."""
