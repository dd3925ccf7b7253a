"""What was said before a request for a response, and what of it is kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from structlog.typing import FilteringBoundLogger

from service.api.responses.events import GrowingResponse
from service.api.responses.items import STORED_ITEM, InputItem, InputMessage, Item, ItemReference
from service.api.responses.schemas import ResponseRequest
from service.api.responses.translation import write_item
from service.errors import InvalidRequest, StorageError
from service.records.responses import ItemRecord, ResponseRecord, ResponseRecords

_INTERRUPTED = {
    "code": "server_error",
    "message": "The service ended while it made this response; send the request again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that was said, and where a response to it belongs."""

    items: Sequence[Item]
    """From the beginning; the request's own are the last."""
    input: Sequence[Mapping[str, object]]
    """The request's own, as they are kept."""
    chain: str
    previous: str | None
    tenant: str


class Conversations:
    """Between requests and the records of what was answered before."""

    def __init__(self, records: ResponseRecords, log: FilteringBoundLogger) -> None:
        self._records = records
        self._log = log

    async def read(self, request: ResponseRequest, response_id: str, tenant: str) -> Conversation:
        """Raises InvalidRequest for what is not there, or is not finished."""
        given = request.input
        own = [InputMessage(role="user", content=given)] if isinstance(given, str) else given
        chain = await self._read_chain(request.previous_response_id, tenant)
        history = [item for record in chain for item in (*record.input, *record.output)]
        own_items = await self._resolve(own, {item.id for item in history}, tenant)
        return Conversation(
            items=[*(STORED_ITEM.validate_json(item.body) for item in history), *own_items],
            input=list(map(write_item, own_items)),
            chain=chain[-1].chain if chain else response_id,
            previous=request.previous_response_id,
            tenant=tenant,
        )

    async def keep(self, response: GrowingResponse, conversation: Conversation) -> None:
        """Raises StorageError."""
        await self._records.put(
            ResponseRecord(
                id=response.id,
                tenant=conversation.tenant,
                chain=conversation.chain,
                previous=conversation.previous,
                is_finished=response.is_finished,
                body=orjson.dumps(response.fields()),
                input=_dump(conversation.input),
                output=_dump(response.output),
            )
        )

    async def keep_if_possible(self, response: GrowingResponse, conversation: Conversation) -> None:
        """Where it is not, the response says that it is not stored."""
        try:
            await self.keep(response, conversation)
        except StorageError as error:
            response.forget_stored()
            self._log.warning("response not stored", response_id=response.id, reason=str(error))

    async def _read_chain(self, last: str | None, tenant: str) -> list[ResponseRecord]:
        if last is None:
            return []
        chain = await self._records.get_chain(last, tenant)
        missing = chain[0].previous if chain else last
        if missing is not None:
            raise InvalidRequest(
                f"There is no previous response {missing!r}: it was not stored, was deleted, or "
                "expired. Send the conversation as input items.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if not chain[-1].is_finished:
            raise InvalidRequest(
                f"The previous response {last!r} is not finished; wait until it is.",
                param="previous_response_id",
            )
        return chain

    async def _resolve(
        self, items: Sequence[InputItem], known: Iterable[str], tenant: str
    ) -> list[Item]:
        """Items in the place of references to them."""
        wanted = [item.id for item in items if isinstance(item, ItemReference)]
        found = await self._records.find_items(wanted, tenant) if wanted else {}
        return [
            _look_up(item, f"input[{index}].id", found, known)
            if isinstance(item, ItemReference)
            else item
            for index, item in enumerate(items)
        ]


async def fail_unfinished(records: ResponseRecords) -> None:
    """To be called at start, of what the last process was making when it ended."""
    for record in await records.list_unfinished():
        fields = orjson.loads(record.body) | {"status": "failed", "error": _INTERRUPTED}
        await records.put(replace(record, is_finished=True, body=orjson.dumps(fields)))


def write_body(record: ResponseRecord) -> dict[str, Any]:
    return orjson.loads(record.body) | {
        "output": [orjson.loads(item.body) for item in record.output]
    }


def _look_up(
    reference: ItemReference, path: str, found: Mapping[str, bytes], known: Iterable[str]
) -> Item:
    if reference.id in known:
        raise InvalidRequest(
            f"{path}: the item {reference.id!r} is part of the previous response's conversation "
            "already; leave it out.",
            param=path,
            code="duplicate_item",
        )
    if reference.id not in found:
        raise InvalidRequest(
            f"{path}: there is no item {reference.id!r}: it was not stored, was deleted, or "
            "expired. Send the item itself.",
            param=path,
            code="item_not_found",
        )
    return STORED_ITEM.validate_json(found[reference.id])


def _dump(items: Iterable[Mapping[str, object]]) -> list[ItemRecord]:
    return [ItemRecord(id=str(item["id"]), body=orjson.dumps(item)) for item in items]
