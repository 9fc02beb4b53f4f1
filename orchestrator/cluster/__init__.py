"""Beyond this machine: Ray jobs and Slurm scripts."""
