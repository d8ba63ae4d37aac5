"""Files in and out: atomic writes, images, videos, YAML, shipped resources."""
