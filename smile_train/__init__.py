"""smile_train: CLIP-guided masked pretraining on animated clips, and what was learned.

Import from its modules, for example ``from smile_train.training.pretrain import pretrain``: torch and open_clip take
seconds to load, and a mistyped command should not wait for them.
"""
