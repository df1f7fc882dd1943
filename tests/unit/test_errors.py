"""A wrong name is answered with what there is, or with the nearest where there is too much."""

from memrl_ctrl.errors import MOST_NAMES, UnknownNameError


def test_few_names_are_listed_and_of_many_the_nearest() -> None:
    """All of a list that can be read; of a longer one its length and what is most like the name."""
    few = [f"task-{k}" for k in range(MOST_NAMES)]
    said = str(UnknownNameError("task", "nothing", few))
    assert all(name in said for name in few)
    many = [*few, *(f"maze-{k}" for k in range(100))]
    said = str(UnknownNameError("task", "maze-17x", many))
    assert said.startswith("no task 'maze-17x' among 140; the most like it: maze-17, ")
    assert said.endswith("; did you mean 'maze-17'?")
    assert said.count("maze-") + said.count("task-") <= 12
