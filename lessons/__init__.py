"""What the notebooks show, a file a lesson; `lessons.check` is under each of their exercises."""

from lessons.exercises import check_answer as check

__all__ = ["check"]
