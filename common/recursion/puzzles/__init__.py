"""Puzzles on grids: Sudoku and mazes of our own making, folders in the format of HRM, ARC."""
