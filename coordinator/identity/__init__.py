"""Who calls the financing API: clients, their secrets, tokens, scopes, rates."""
