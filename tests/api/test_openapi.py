"""The description at /openapi.json, and the service held to it."""

import re

import pytest
from fastapi.routing import iter_route_contexts

from service.api.application import OPERATIONS
from service.api.rate_limits import RATE_LIMIT_HEADERS
from tests.api.builders import build_service

_CONVERTER = re.compile(r":\w+}")


async def describe(**config):
    async with build_service(**config).direct() as http:
        keys = config.get("api_keys", ("none",))
        response = await http.get("/openapi.json", headers={"Authorization": f"Bearer {keys[0]}"})
    assert response.status_code == 200
    return response.json()


def routes_of(app):
    """(method, path) of each, as the document writes them; HEAD goes with GET unsaid."""
    return {
        (method.lower(), _CONVERTER.sub("}", route.path or ""))
        for route in iter_route_contexts(app.router.routes)
        for method in (route.methods or set()) - {"HEAD"}
    }


def operations_of(document):
    return {
        (method, path): each
        for path, of in document["paths"].items()
        for method, each in of.items()
    }


async def test_every_route_is_described_and_nothing_else_is():
    assert operations_of(await describe()).keys() == routes_of(build_service().app)


async def test_names_of_operations_are_unique():
    names = [each["operationId"] for each in operations_of(await describe()).values()]
    assert len(set(names)) == len(names)


async def test_every_reference_leads_somewhere():
    document = await describe()
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"')))
    assert names == document["components"]["schemas"].keys()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_a_path_names_the_parameters_that_are_described(operation):
    described = {each.name for each in operation.parameters if each.place == "path"}
    assert set(re.findall(r"{(\w+)}", operation.path)) == described


async def test_every_failure_is_described_with_the_one_error_body():
    for operation in operations_of(await describe(api_keys=("one",))).values():
        for status, response in operation["responses"].items():
            if int(status) >= 400 and "Health" not in str(response):
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}


async def test_with_keys_all_but_liveness_is_told_to_need_one():
    operations = operations_of(await describe(api_keys=("one",)))
    open_ones = {path for (_, path), each in operations.items() if not each["security"]}
    refusing = {path for (_, path), each in operations.items() if "401" in each["responses"]}
    assert open_ones == {"/health/live"}
    assert refusing == {path for _, path in operations} - open_ones


async def test_without_keys_none_is_told_to_need_one():
    document = await describe()
    assert not any(each["security"] for each in operations_of(document).values())
    assert "securitySchemes" not in document["components"]


async def test_with_keys_the_description_needs_one_too():
    async with build_service(api_keys=("one",)).direct() as http:
        assert (await http.get("/openapi.json")).status_code == 401


async def test_answers_of_endpoints_that_are_limited_are_told_to_say_what_is_left():
    limited = {
        path: {
            status: RATE_LIMIT_HEADERS[0] in response["headers"]
            for status, response in each["responses"].items()
        }
        for (_, path), each in operations_of(await describe()).items()
    }
    generating = {path for path, told in limited.items() if any(told.values())}
    assert generating == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
    }
    assert all(told for path in generating for told in limited[path].values())
    assert all("429" in limited[path] for path in generating)
