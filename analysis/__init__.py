"""Tables, figures and the leaderboard, from stored records. Never imports torch, methods or tasks."""
