"""Do what a command asks for: the only room that may use all others."""
