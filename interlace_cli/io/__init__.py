"""Disk and Hub: formats and no decisions."""
