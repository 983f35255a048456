"""The parts of a report: each module turns results into blocks, or gives nothing."""
