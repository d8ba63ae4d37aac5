"""A motion ablation.

Two students see the same objects on straight paths. In the clips of one student the objects turn, too.
Linear probes then read the sense of rotation and the direction from both. Writes the study's page.
"""

from pathlib import Path

from smile_train.ablate import Study, StudyRun, Summary

STUDY = """
about: Does rotation in the clips teach the sense of rotation?
base: {base}
overrides: [{overrides}]
reference: straight
arms:
  straight:
    stages.0.sources.0.overrides: ["motion=[{{family: constant-velocity, speed: 2}}]"]
  turning:
    stages.0.sources.0.overrides: ["motion=[{{family: constant-velocity, speed: 2, rotation: {{rate: 12}}}}]"]
tasks: [rotation, direction]
"""


def main(
    out: Path,
    *,
    base: str = "motion-cpu",
    overrides: str = "stages.0.steps=600",
    study_overrides: tuple[str, ...] = ("seeds=[0]", "num_train=600", "num_test=400"),
) -> list[Summary]:
    """Run the study in ``out`` and print a line per probe and arm; return them."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "rotation.yaml").write_text(STUDY.format(base=base, overrides=overrides))
    run = StudyRun(Study.load(out / "rotation.yaml", study_overrides), out / "study")
    run.run(progress=lambda what, done, total, remark: print(f"\r{what}: {done} of {total} {remark}", end=""))
    summary = run.report()
    print()
    for row in summary:
        print(f"{row.task}, {row.arm}: {row.mean:.1%}; random encoders {row.random:.1%}")
    print(f"page: {out / 'study' / 'index.html'}")
    return summary


if __name__ == "__main__":
    main(Path("runs/motion-ablation"))
