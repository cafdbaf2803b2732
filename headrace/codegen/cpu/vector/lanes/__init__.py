"""Element by element: what happens in one vector register."""
