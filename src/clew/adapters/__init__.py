"""What the runtime's ports are made of: databases, models, tools. Each adapter stands alone."""
