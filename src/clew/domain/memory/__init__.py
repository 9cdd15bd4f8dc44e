"""What is remembered from one session to the next: facts, which are kept, recalled and forgotten by one set of rules."""
