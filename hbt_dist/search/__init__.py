"""Search over the settings of a run: space, points, folder. Free of Ray."""
