"""What tests need and plugins may use: builders, invariants, and one contract suite for each port."""
