"""``python -m smile_synth.cli``."""

from smile_synth.cli import main

if __name__ == "__main__":
    main()
