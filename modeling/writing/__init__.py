"""What families share whose models write their answers token by token."""
