"""How the demo model was trained, and how its card is made. Run by hand; nothing imports it."""
