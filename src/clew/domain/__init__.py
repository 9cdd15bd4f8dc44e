"""What Clew knows without a clock, a disk or a socket: standard library and msgspec only."""
