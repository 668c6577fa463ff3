"""D4RL's mazes as grids: where walls, starts and goals are, and the way from one cell to another.

Cells are (row, column), four units wide; x runs along columns, y along rows, and the origin is the centre of the start
cell. The maps are those of Farama-Foundation/D4RL ``d4rl/locomotion/maze_env.py``: walls ``#``, the start ``r``, free
cells ``.``, the cells that play data aims at ``g``, the one that evaluation aims at ``G``, and ``B`` for both.
"""

from __future__ import annotations

import functools
from collections import deque

import numpy as np

UNIT = 4.0
"""Width of a cell; walls are half as high."""
LOOK_AHEAD = 2.0
Cell = tuple[int, int]

_MAPS = {
    "umaze": """
        #####
        #r..#
        ###.#
        #B..#
        #####""",
    "medium": """
        ########
        #r.##..#
        #..#..g#
        ##...###
        #..#...#
        #g#..#.#
        #...#gG#
        ########""",
    "large": """
        ############
        #r...#g....#
        #.##.#.#.#.#
        #....g.#..g#
        #.####.###.#
        #.g#.#.....#
        ##.#.#.#.###
        #..#g.g#.B.#
        ############""",
}
SIZES = tuple(_MAPS)


class Maze:
    """One maze.

    Attributes:
      walls: Cells with a wall.
      free: All others, the start and goals among them.
      start: The cell that evaluation starts from.
      goal: The cell that evaluation aims at.
      goals: The cells that play data aims at.
    """

    def __init__(self, size: str):
        rows = [line.strip() for line in _MAPS[size].split()]
        cells = {(i, j): mark for i, row in enumerate(rows) for j, mark in enumerate(row)}
        self.walls = [cell for cell, mark in cells.items() if mark == "#"]
        self.free = [cell for cell, mark in cells.items() if mark != "#"]
        (self.start,) = (cell for cell, mark in cells.items() if mark == "r")
        (self.goal,) = (cell for cell, mark in cells.items() if mark in "GB")
        self.goals = [cell for cell, mark in cells.items() if mark in "gB"]
        self._following: dict[Cell, dict[Cell, Cell]] = {}

    def centre(self, cell: Cell) -> np.ndarray:
        """The place `[2]` of a cell's centre."""
        row, column = cell
        return np.array([(column - self.start[1]) * UNIT, (row - self.start[0]) * UNIT])

    def cell_at(self, place: np.ndarray) -> Cell:
        """The cell that `place` `[2]` lies in."""
        column, row = np.floor(np.asarray(place) / UNIT + 0.5).astype(int)
        return int(row) + self.start[0], int(column) + self.start[1]

    def following(self, target: Cell) -> dict[Cell, Cell]:
        """For every free cell the next one on a shortest way to `target`; breadth first, once per target."""
        if target not in self._following:
            free, found, queue = set(self.free), {target: target}, deque([target])
            while queue:
                row, column = here = queue.popleft()
                for near in ((row, column - 1), (row, column + 1), (row + 1, column), (row - 1, column)):
                    if near in free and near not in found:
                        found[near] = here
                        queue.append(near)
            self._following[target] = found
        return self._following[target]

    def waypoint(self, place: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Where to head for from `place` `[2]` in order to reach `goal` `[2]`.

        In the goal's cell that is the goal; elsewhere a point `LOOK_AHEAD` further along the line from the centre of
        the cell to that of the next, so that bends are not cut and walls not brushed.
        """
        target, here = self.cell_at(goal), self.cell_at(place)
        here = here if here in self.following(target) else self._nearest(place)
        if here == target:
            return np.asarray(goal, np.float64)
        centre = self.centre(here)
        along = (self.centre(self.following(target)[here]) - centre) / UNIT
        covered = float(np.dot(np.asarray(place) - centre, along))
        return centre + along * (max(covered, 0.0) + LOOK_AHEAD)

    def _nearest(self, place: np.ndarray) -> Cell:
        """The free cell whose centre is nearest to `place`, for one that leans over a wall."""
        return min(self.free, key=lambda cell: float(np.sum((self.centre(cell) - place) ** 2)))


@functools.cache
def maze(size: str) -> Maze:
    """The maze of a name in `SIZES`."""
    return Maze(size)
