"""Exact checks of samplers, paths and predictions against closed forms."""
