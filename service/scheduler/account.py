"""What a tenant has had."""


class Account:
    """Of a tenant at one priority. Nothing ever makes `service` less, which its readers rely on."""

    __slots__ = ("num_present", "num_waiting", "service")

    def __init__(self) -> None:
        self.service = 0.0
        """In prompt tokens, over the tenant's weight."""
        self.num_present = 0
        """Its sequences between their arrival and their end."""
        self.num_waiting = 0
        """Those of them that wait for a slot."""
