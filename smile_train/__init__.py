"""smile_train: pretrain video encoders on animated clips, fine-tune them, and measure what they learned.

Import from its modules, for example ``from smile_train.training.pretrain import pretrain``. The package
itself imports nothing, because torch and open_clip take seconds to load.
"""
