"""Between cells, attackers and folders: paired differences, ranks, the Pareto front."""
