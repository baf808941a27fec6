"""How fast freehold is on lab machines, what it costs there, and where the time goes. See README.md."""
