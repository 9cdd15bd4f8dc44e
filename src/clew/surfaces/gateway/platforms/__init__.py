"""A platform is one file here: a class that keeps the promises of `runtime.ports.platforms`."""
