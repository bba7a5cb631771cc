"""The engine: schedule, forward, sample, commit, behind the interface that all engines share."""
