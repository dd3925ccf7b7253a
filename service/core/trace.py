"""Where a request stands in a distributed trace; plain data, so that it goes wherever it goes."""

import msgspec


class TraceContext(msgspec.Struct, frozen=True, kw_only=True):
    """The span that the stages of a request are children of."""

    trace_id: int
    span_id: int
    epoch_ns: int
    """When the monotonic clock was 0, in nanoseconds since 1970; one figure for a whole trace,
    so that its spans fit into each other whatever happens to the wall clock meanwhile."""
