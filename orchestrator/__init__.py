"""Sweeps: configuration, studies, execution, storage, analysis, command line."""
