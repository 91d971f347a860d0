"""Real MiniGrid as an exact table: states, walks, learning tasks."""
