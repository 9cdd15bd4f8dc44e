"""Where the cursor is after a terminal became narrower and broke its lines anew.

The part of the screen that is drawn again begins so many rows above the cursor. When its rows were broken in two,
there are more of them; without this count their upper halves would stay on the screen at every step of a resize.
"""

from __future__ import annotations

from prompt_toolkit.layout.screen import Screen


def rows_gained(screen: Screen, cursor_row: int, cursor_column: int, columns: int) -> int:
    """How many rows more there are between the first row of the screen and the cursor's, at this width."""
    above = sum(_rows(_width(screen, row), columns) - 1 for row in range(cursor_row))
    return above + cursor_column // max(columns, 1)


def _rows(width: int, columns: int) -> int:
    return max(1, -(-width // max(columns, 1)))


def _width(screen: Screen, row: int) -> int:
    """The columns up to the last that shows something."""
    cells = screen.data_buffer[row]
    shown = [column + cell.width for column, cell in cells.items() if cell.char.strip()]
    return max(shown, default=0)
