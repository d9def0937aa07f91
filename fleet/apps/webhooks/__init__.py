"""Who is told over HTTP of what happened, and what became of each telling."""
