"""Run the command line: typer options, then one call into `hbt_dist.jobs` per command."""
