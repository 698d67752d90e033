"""Search over the settings of a run: the space, the points that are tried, what is written. Free of Ray."""
