"""``python -m smile_train.cli``, also under torchrun."""

from smile_train.cli import main

if __name__ == "__main__":
    main()
