"""Runs over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.iostream import IOStream
from tornado.tcpclient import TCPClient

import dask_fmware as fm
from dask_fmware.errors import SpecError
from dask_fmware.gateway import Gateway, listening
from dask_fmware.gateway.runs import BODY_BYTES

TEXT = "It is 42, as everybody knows, and has been for long."


async def test_a_run_is_answered_with_its_result_and_times(serve) -> None:
    async with serve(text=TEXT) as served:
        answer, said = await served.ask("/workflows/rag", {"inputs": {"question": "Why?"}})
        assert answer.code == 200
        assert said["result"] == TEXT
        assert said["slo_met"] is True
        assert 0 < said["ttft_s"] <= said["latency_s"]
        assert said["usage"]["completion_tokens"] > 0
        assert said["run_id"] == answer.headers["X-Run-Id"]
        assert served.cluster.router.machine.report(said["run_id"]).workflow == "rag"


async def test_what_plain_code_returns_is_told_as_json(serve) -> None:
    async with serve() as served:
        _, said = await served.ask("/workflows/sums", {"inputs": {"first": 2, "second": 3}})
        assert said["result"] == {"sum": 5, "of": [2, 3]}
        answer, said = await served.ask("/workflows/sums", {"inputs": {"first": 2, "second": 13}})
        assert (answer.code, said["error"]["type"]) == (500, "UnsaidError")
        assert "its result (object) has no JSON" in said["error"]["message"]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("kind", ["itself", "bytes", "long", "liar"])
async def test_a_result_that_json_cannot_say_is_an_error_of_its_own(serve, kind: str, is_streamed: bool) -> None:
    async with serve() as served:
        body = {"inputs": {"kind": kind}, "stream": is_streamed}
        answer, said = await served.ask("/workflows/oddities", body)
        assert (answer.code, said["error"]["type"]) == (500, "UnsaidError")
        assert "secret" not in answer.body.decode()


async def test_what_is_no_number_is_null(serve) -> None:
    async with serve() as served:
        _, said = await served.ask("/workflows/oddities", {"inputs": {"kind": "infinite"}})
        assert said["result"] == {"found": None, "more": [None]}


async def test_an_answer_is_streamed_as_it_comes(serve) -> None:
    async with serve(text=TEXT, token_s=0.01) as served:
        events = await served.events("/workflows/rag", {"inputs": {"question": "Why?"}, "stream": True})
        assert [name for name, _ in events[-1:]] == ["end"]
        texts = [json.loads(data)["text"] for name, data in events if name == "text"]
        assert len(texts) > 1
        assert "".join(texts) == TEXT == json.loads(events[-1][1])["result"]


async def test_options_of_a_run_are_its_own(serve) -> None:
    async with serve(text=TEXT, gateway={"max_priority": 5}) as served:
        body = {"inputs": {"question": "Why?"}, "slo": {"e2e_s": 30}, "tenant": "blue", "priority": 5}
        _, said = await served.ask("/workflows/rag", body)
        report = served.cluster.router.machine.report(said["run_id"])
        assert (report.tenant, report.priority, report.ttft_slo_s, report.e2e_slo_s) == ("blue", 5, None, 30)


async def test_who_asks_for_no_priority_has_the_highest_that_is_not_above_0(serve) -> None:
    async with serve(text=TEXT, gateway={"max_priority": -5}) as served:
        for asked in ({}, {"priority": None}, {"priority": -5}):
            answer, said = await served.ask("/workflows/rag", {"inputs": {"question": "Why?"}, **asked})
            assert answer.code == 200, said
            assert served.cluster.router.machine.report(said["run_id"]).priority == -5


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("/workflows/rag", {"inputs": {}}, 400, "input 'question' is missing"),
        ("/workflows/rag", {"inputs": {"question": "a", "colour": 1}}, 400, "unknown input 'colour'"),
        ("/workflows/rag", {"input": {}}, 400, "unknown key 'input'"),
        ("/workflows/rag", {"inputs": {"question": "a"}, "slo": {"ttft_s": -1}}, 400, "slo.ttft_s"),
        ("/workflows/rag", {"inputs": {"question": "a"}, "priority": 1}, 400, "may ask for 0 at most"),
        ("/workflows/rag", {"inputs": {"question": "a"}, "slo": {"ttft_s": 1.7e308}}, 400, "slo.ttft_s: input"),
        ("/workflows/rag", {"inputs": {"question": "a"}, "slo": {"e2e_s": 10**400}}, 400, "slo.e2e_s"),
        ("/workflows/rag", {"inputs": {"question": "a"}, "slo": {"finish_by": 10**400}}, 400, "finish_by is a moment"),
        ("/workflows/rag", b"{", 400, "no JSON"),
        ("/workflows/rag", b"[" * 100_000, 400, "no JSON"),
        ("/workflows/rag", b"[]", 400, "send an object"),
        ("/workflows/rag", b'{"inputs": {"a\\ud800": 1}}', 400, "unknown input 'a\ud800'"),
        ("/workflows/nothing%0d%0aX:%20y", {}, 404, "no workflow 'nothing"),
        ("/nothing", {}, 404, "GET /workflows"),
        ("/workflows", {}, 405, "POST is not answered here; send GET"),
        ("/workflows/rag", None, 405, "GET is not answered here; send POST with a body of JSON"),
        ("/v1/chat/completions", None, 405, "send POST with a body of JSON that has model and messages"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said(serve, path: str, body: Any, code: int, message: str) -> None:
    async with serve() as served:
        answer, said = await served.ask(path, body)
        assert (answer.code, message in said["error"]["message"]) == (code, True), said
        assert "X" not in answer.headers
        assert answer.headers.get("Allow", "") == ("" if code != 405 else "POST" if body is None else "GET, HEAD")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *((path, "GET, HEAD") for path in ("/health", "/workflows", "/v1/models", "/v1/models/rag")),
        *((path, "POST") for path in ("/workflows/rag", "/v1/chat/completions")),
    ],
)
async def test_a_method_that_is_not_answered_is_told_which_are(serve, path: str, allowed: str) -> None:
    async with serve() as served:
        url, http = served.url + path, AsyncHTTPClient()
        for method in ("OPTIONS", "DELETE", "HEAD", "GET"):
            answer = await http.fetch(HTTPRequest(url, method), raise_error=False)
            if method in allowed:
                assert (answer.code, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
                assert (answer.body == b"") is (method == "HEAD")
                assert int(answer.headers["Content-Length"]) > 0
            else:
                assert (answer.code, answer.headers["Allow"]) == (405, allowed)


async def raw(url: str, headers: str, *pieces: bytes, path: str = "/workflows/rag") -> tuple[int, bytes]:
    """Post what no client would; returns the status, and what follows it."""
    caller: IOStream = await TCPClient().connect("127.0.0.1", int(url.rsplit(":", 1)[1]))
    await caller.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode())
    for piece in pieces:
        await caller.write(piece)
    async with asyncio.timeout(30):
        status = await caller.read_until(b"\r\n")
        rest = await caller.read_until(b"}")
    caller.close()
    return int(status.split()[1]), rest


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""])
async def test_a_body_is_json_whatever_its_sender_calls_it(serve, kind: str) -> None:
    async with serve(text=TEXT, context_tokens=100_000) as served:  # `curl -d` calls it a form
        body = json.dumps({"inputs": {"question": "a&b=" * 2000}}).encode()
        code, said = await raw(served.url, f"Content-Type: {kind}\r\nContent-Length: {len(body)}", body)
        assert code == 200, said


async def test_a_body_that_is_too_large_is_refused_in_words(serve) -> None:
    async with serve() as served:
        body = b" " * (BODY_BYTES + 1)
        answer, said = await served.ask("/workflows/rag", body)
        assert (answer.code, "more than 16777216 bytes" in said["error"]["message"]) == (413, True)
        piece = b"%x\r\n%s\r\n" % (len(body) // 2 + 1, body[: len(body) // 2 + 1])
        code, _ = await raw(served.url, "Transfer-Encoding: chunked", piece, piece, b"0\r\n\r\n")
        assert code == 413


@pytest.mark.parametrize("path", ["/workflows/rag", "/nothing"])
async def test_who_sends_all_before_it_looks_is_answered(serve, path: str) -> None:
    async with serve(gateway={"tenants": {"blue-token": "blue"}}) as served:
        piece = b" " * (BODY_BYTES // 16)
        headers = f"Content-Length: {17 * len(piece)}"
        assert (await raw(served.url, headers, *[piece] * 17, path=path))[0] == (401 if "rag" in path else 404)
        code, _ = await raw(served.url, headers + "\r\nExpect: 100-continue", path=path)  # looks first
        assert code == (401 if "rag" in path else 404)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ("Origin: https://elsewhere.example", 403),
        ("Origin: null", 403),
        ("Origin: http://localhost", 200),
        ("Origin: https://x.example\r\nSec-Fetch-Site: same-origin", 200),  # behind a proxy that has another name
        ("Sec-Fetch-Site: cross-site", 403),
        ("Sec-Fetch-Site: none", 200),
    ],
)
async def test_pages_of_other_sites_run_nothing_without_a_token(serve, headers: str, code: int) -> None:
    body = json.dumps({"inputs": {"question": "Why?"}}).encode()  # as a page may send it, which asks nobody before
    headers += f"\r\nContent-Type: text/plain\r\nAuthorization: Bearer blue-token\r\nContent-Length: {len(body)}"
    async with serve(text=TEXT) as served:
        assert (await raw(served.url, headers, body))[0] == code
    async with serve(text=TEXT, gateway={"tenants": {"blue-token": "blue"}}) as served:
        assert (await raw(served.url, headers, body))[0] == 200  # a page that knows a token is no stranger


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1"])
async def test_a_name_that_a_page_lets_lead_here_runs_nothing_without_a_token(serve, host: str) -> None:
    headers = {"Host": host, "Sec-Fetch-Site": "same-origin"}  # as a browser says then
    body = json.dumps({"inputs": {"question": "Why?"}})

    async def asked(url: str, **more: str) -> list[int]:
        said = []
        for path, sent in (("/workflows/rag", body), ("/workflows", None), ("/v1/models", None), ("/health", None)):
            method = "GET" if sent is None else "POST"
            request = HTTPRequest(url + path, method, headers | more, sent)
            said.append((await AsyncHTTPClient().fetch(request, raise_error=False)).code)
        return said

    async with serve(text=TEXT) as served:
        assert await asked(served.url) == [403, 403, 403, 200]
    async with serve(text=TEXT, gateway={"tenants": {"blue-token": "blue"}}) as served:
        assert await asked(served.url, Authorization="Bearer blue-token") == [200] * 4


async def test_names_of_this_machine_and_those_that_are_given_may_be_asked_for(serve) -> None:
    async with serve(text=TEXT) as served, listening(served.gateway, port=0, names=["Flows.example"]) as port:
        for host in ("flows.example", "FLOWS.example.:8000", "localhost:8000", "x.localhost", "[::1]:8000", "10.0.0.7"):
            asked = HTTPRequest(f"http://127.0.0.1:{port}/workflows", headers={"Host": host})
            assert (await AsyncHTTPClient().fetch(asked)).code == 200, host
        caller: IOStream = await TCPClient().connect("127.0.0.1", port)
        await caller.write(b"GET /workflows HTTP/1.0\r\n\r\n")  # which has no such header
        assert b" 200 " in await caller.read_until(b"\r\n")
        for name in ("http://flows.example", "flows.example:80", "fl\u00f6ws.example", ""):
            with pytest.raises(SpecError, match="is no name of a host"):
                async with listening(served.gateway, port=0, names=[name]):
                    pass


async def test_an_error_of_plain_code_keeps_its_words_to_itself(serve, caplog) -> None:
    async with serve() as served:
        body = {"inputs": {"first": "secret", "second": "b"}}
        answer, said = await served.ask("/workflows/sums", body)
        assert (answer.code, said["error"]["type"]) == (500, "RuntimeError")
        assert "secret" not in answer.body.decode()
        answer, said = await served.ask("/workflows/sums", {**body, "stream": True})  # nothing was streamed
        assert (answer.code, said["error"]["type"]) == (500, "RuntimeError")
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("dask_fmware")]
        assert sum("of workflow 'sums': RuntimeError" in line for line in ours) == 2
        assert not any("secret" in line for line in ours)


async def test_an_engine_that_fails_in_mid_answer_is_told_in_the_stream(serve) -> None:
    rules = [{"when": "Answer", "text": TEXT, "token_s": 0.02, "fault": "error", "at_token": 5}]
    async with serve(text=TEXT, rules=rules) as served:
        events = await served.events("/workflows/rag", {"inputs": {"question": "Why?"}, "stream": True})
        assert {name for name, _ in events[:-1]} == {"text"}
        name, data = events[-1]
        assert (name, json.loads(data)["error"]["code"]) == ("error", 502)


async def test_no_room_is_to_be_tried_again(serve) -> None:
    async with serve(text=TEXT, token_s=0.05, slots=1, router={"max_held": 1}) as served:
        asked = [served.ask("/workflows/rag", {"inputs": {"question": f"{n}"}}) for n in range(12)]
        answers = await asyncio.gather(*asked)
        codes = {answer.code for answer, _ in answers}
        assert codes == {200, 503}
        refused = next(answer for answer, _ in answers if answer.code == 503)
        assert refused.headers["Retry-After"] == "1"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_caller_who_hangs_up_cancels_its_run(serve, is_streamed: bool) -> None:
    async with serve() as served:  # an answer that goes on until it is cut
        for engine in served.cluster.engines.values():
            engine.token_s = 0.2
        port = int(served.url.rsplit(":", 1)[1])
        body = json.dumps({"inputs": {"question": "Why?"}, "stream": is_streamed}).encode()
        caller: IOStream = await TCPClient().connect("127.0.0.1", port)
        await caller.write(
            b"POST /workflows/rag HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        machine = served.cluster.router.machine
        await served.cluster.until(lambda: any(state.running for state in machine.fleet), "it runs")
        caller.close()
        await served.cluster.until(lambda: not any(state.running for state in machine.fleet), "it is cancelled")
        await served.cluster.until(lambda: not served.gateway.requests, "nothing is left of it")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_caller_who_does_not_read_its_answer_is_let_go(serve, monkeypatch, is_streamed: bool) -> None:
    monkeypatch.setattr("dask_fmware.gateway.handler.TAKEN_S", 0.1)
    async with serve() as served:
        port, text = int(served.url.rsplit(":", 1)[1]), "word " * 1_600_000  # more than sockets buffer
        body = json.dumps({"inputs": {"question": text}, "stream": is_streamed}).encode()
        with socket.create_connection(("127.0.0.1", port)) as caller:
            head = b"POST /workflows/same HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            await asyncio.to_thread(caller.sendall, head + body)
            await served.cluster.until(lambda: served.gateway.requests, "it has come")
            await served.cluster.until(lambda: not served.gateway.requests, "it is let go")
            await served.cluster.settled()


async def test_tokens_say_who_runs(serve) -> None:
    async with serve(text=TEXT, gateway={"tenants": {"red-token": "red", "blue-token": "blue"}}) as served:
        body = {"inputs": {"question": "Why?"}}
        for token in (None, "", "purple", "red-token2", "red\u00e9"):
            answer, said = await served.ask("/workflows/rag", body, token=token)
            assert answer.code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        _, said = await served.ask("/workflows/rag", body, token="blue-token")
        assert served.cluster.router.machine.report(said["run_id"]).tenant == "blue"
        answer, said = await served.ask("/workflows/rag", {**body, "tenant": "red"}, token="blue-token")
        assert (answer.code, "of tenant 'blue'" in said["error"]["message"]) == (400, True)
        assert (await served.ask("/health"))[0].code == 200


async def test_what_is_served_is_listed(serve) -> None:
    async with serve() as served:
        _, said = await served.ask("/workflows")
        listed = {one["name"]: one for one in said["workflows"]}
        assert list(listed) == ["rag", "chat", "sums", "oddities", "same"]
        assert listed["rag"]["slo"] == {"ttft_s": 60.0, "on_miss": "finish"}
        assert [item["name"] for item in listed["rag"]["inputs"]] == ["question", "tone"]


async def test_what_cannot_be_served_is_refused(serve) -> None:
    async with serve() as served:
        client = served.cluster.client
        with pytest.raises(SpecError, match="at least one workflow"):
            Gateway(client, [])
        one = served.gateway.workflows["rag"]
        with pytest.raises(SpecError, match="two workflows are named 'rag'"):
            Gateway(client, [one, one])
        with pytest.raises(SpecError, match="a token is empty"):
            Gateway(client, [one], tenants={"": "red"})
        with pytest.raises(SpecError, match=r"cannot listen at 127\.0\.0\.1:"):
            async with listening(served.gateway, port=int(served.url.rsplit(":", 1)[1])):
                pass
        with pytest.raises(TypeError, match=r"takes a distributed\.Client"):
            Gateway(fm, [one])
