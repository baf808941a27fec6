module freehold.invalid/releases/echo

go 1.26.0
