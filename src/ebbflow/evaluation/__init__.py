"""Measuring and drawing what models do."""
