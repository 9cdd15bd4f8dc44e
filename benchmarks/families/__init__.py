"""One module for each family of benchmarks; `registry` says how to add one."""
