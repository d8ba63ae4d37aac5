"""What everything is made of: geometry, random numbers, textures, coverage, containers, errors."""
