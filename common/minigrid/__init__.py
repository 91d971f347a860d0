"""Real MiniGrid as an exact table: states, walks, learning tasks.

The folder needs torch, gymnasium, minigrid and numpy alone and can be copied into another project, under any
name but `minigrid` itself.
"""
