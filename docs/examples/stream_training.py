"""Streaming into a training loop.

A small network learns to find the moving objects of a clip. Clips are rendered during training, without
files except the bank. The image shows frames, predicted masks and true masks.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from smile_synth import Recipe, Sources, build_bank, stream
from smile_synth.visualize import contact_sheet

RECIPE = """
size: [64, 64]
num_frames: 8
backgrounds: [{kind: dead-leaves}]
objects: {count: [1, 3], side: [16, 20, 24, 28]}
motion: [{family: bounce, speed: [1, 4]}, {family: orbit, radius: [6, 14], turn: [10, 30]}]
"""


def main(out: Path, *, steps: int = 300, batch_size: int = 8) -> list[float]:
    """Train the network and write ``masks.png``; return the losses."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "objects.bank").exists():
        build_bank("drawn:200", out / "objects.bank")
    (out / "recipe.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(3, 16, (3, 5, 5), padding=(1, 2, 2)),
        torch.nn.ReLU(),
        torch.nn.Conv3d(16, 16, (3, 5, 5), padding=(1, 2, 2)),
        torch.nn.ReLU(),
        torch.nn.Conv3d(16, 1, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    clips = stream(
        Recipe.load(out / "recipe.yaml"),
        Sources.open(out / "objects.bank"),
        batch_size=batch_size,
        seed=0,
        out_dtype="float32",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        labels=("segmentation",),
        workers=0,  # this process makes the clips; more workers make them in advance
    )
    losses = []
    with clips:
        for step, batch in zip(range(steps), clips, strict=False):
            logits = network(batch.frames.transpose(1, 2)).squeeze(1)  # [B, 3, T, H, W] -> [B, T, H, W]
            moving = (batch.labels["segmentation"] > 0).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, moving)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if step % 50 == 0:
                print(f"step {step}: loss {loss:.3f}")
    frames = (batch.frames[:, 0].permute(0, 2, 3, 1) * 0.25 + 0.5).clamp(0, 1)
    masks = [mask[:, 0, ..., None].expand_as(frames) for mask in (logits.detach().sigmoid(), moving)]
    images = [(255 * row[k]).numpy().astype(np.uint8) for row in (frames, *masks) for k in range(batch_size)]
    Image.fromarray(contact_sheet(images, columns=batch_size)).save(out / "masks.png")
    return losses


if __name__ == "__main__":
    main(Path("runs/stream-training"))
