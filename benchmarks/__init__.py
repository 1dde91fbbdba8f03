"""What the planner is measured on: models at their real sizes, and one script per question."""
