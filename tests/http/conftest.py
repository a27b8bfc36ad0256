"""These tests share the application of tests/parts/rest.py."""

from parts.rest import rest as rest
