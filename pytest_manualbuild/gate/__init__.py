"""The gate: evidence, packages, matrix, policy and what people signed, judged to a verdict."""
