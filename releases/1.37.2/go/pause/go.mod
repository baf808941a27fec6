module freehold.invalid/releases/pause

go 1.26.0
