"""Repositories in object stores of the clouds, through the obstore library: one module per provider."""
