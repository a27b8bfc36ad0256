"""Plugins: the packages that bring them, their instances on the controllers, and which event each channel belongs to."""
