"""smile_train: pretrain video encoders on animated clips, fine-tune them, and measure what they learned.

`load_encoder` loads an encoder by name or from a file. Import everything else from its module, for example
``from smile_train.training.pretrain import pretrain``. The package itself imports nothing, because torch and
open_clip take seconds to load.
"""

from typing import Any

__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'smile_train' has no attribute '{name}'")
    from smile_train import evaluate

    return getattr(evaluate, name)
