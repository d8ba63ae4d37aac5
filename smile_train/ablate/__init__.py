"""Studies: the same training with different options, the same probes of each, one table and one page."""

from smile_train.ablate._report import PAGE, PLOT, SUMMARY, TABLE, Summary, summarise, t_interval
from smile_train.ablate._run import Cell, Estimate, StudyRun
from smile_train.ablate._study import Study, StudyVideos

__all__ = [
    "PAGE",
    "PLOT",
    "SUMMARY",
    "TABLE",
    "Cell",
    "Estimate",
    "Study",
    "StudyRun",
    "StudyVideos",
    "Summary",
    "summarise",
    "t_interval",
]
