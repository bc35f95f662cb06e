"""What a browser sees: thin views that parse, authorize, call one service or query, and render."""
