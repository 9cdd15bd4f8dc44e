"""What a tool declares and what it returns."""
