"""Clients of model providers, one package a wire. Each passes `clew.testing.contracts.models`."""
