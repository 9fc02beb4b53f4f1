"""The original project's suites: which sweeps each one is, its variables, the folder of each run, its tables."""
