"""Plugins: the devices of the sources, their channels, and the packages that bring them."""
