"""Sessions, messages and positions: the words everything else is said in."""
