"""`smolserve top`: a live view of a running service, from its metrics alone."""

from service.cli.top.command import app as app
