"""What was compiled against what was planned: every collective, every byte, and where the time goes."""
