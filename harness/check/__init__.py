"""The regression gate: base and head measured in one job, and judged."""
