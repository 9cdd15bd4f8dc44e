"""Where people and programs meet Clew; each surface stands alone, on the runtime."""
