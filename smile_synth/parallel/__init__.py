"""Work on several processes or machines, and memory shared with them."""
