"""Policy as data: versioned decision tables with effective dates, their checks, and the rules engine behind them."""
