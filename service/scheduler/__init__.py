"""Policy, pure: which sequences run in a step, with how many tokens, in which slots."""
