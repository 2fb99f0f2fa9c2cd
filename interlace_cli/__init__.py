"""interlace: shorter vision-language models by dropping decoder layers and healing what stays."""

__version__ = "0.1.0"
