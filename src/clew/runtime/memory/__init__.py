"""What is remembered from one session to the next: kept and forgotten on request, recalled by turns, looked for by jobs."""
