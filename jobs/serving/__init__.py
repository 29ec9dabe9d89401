"""What `tagline serve` is made of: a door, routes, questions, and the operators behind them."""
