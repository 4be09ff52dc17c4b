"""The chat node: validate, batch, append, acknowledge; tail, apply, fan out."""
