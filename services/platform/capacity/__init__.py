"""The planner: from measured parts to cores, machines, money, and what breaks first."""
