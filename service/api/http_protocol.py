"""HTTP on a connection, with our error body where a request never becomes one."""

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.errors import status_response


class HttpProtocol(HttpToolsProtocol):
    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, or not valid, and closes."""
        response = status_response(HTTPStatus.BAD_REQUEST, msg)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = [name + b": " + value for name, value in (*headers, (b"connection", b"close"))]
        head = b"\r\n".join([b"HTTP/1.1 400 Bad Request", *lines])
        self.transport.write(head + b"\r\n\r\n" + bytes(response.body))
        self.transport.close()
