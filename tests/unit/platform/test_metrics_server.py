"""A worker's metrics page."""

import http.client
import urllib.error
import urllib.request

import pytest

from services.platform.runtime.metrics_server import serve_metrics


@pytest.mark.parametrize("path", ["/metrics", "/"])
def test_head_has_the_headers_of_get_without_its_body(path):
    connection = http.client.HTTPConnection("127.0.0.1", serve_metrics("127.0.0.1", 0), timeout=5)
    answers = {}
    for method in ("GET", "HEAD"):
        connection.request(method, path)
        answer = connection.getresponse()
        headers = {k: v for k, v in answer.getheaders() if k not in ("Date", "Content-Length")}
        answers[method] = (answer.status, headers, answer.getheader("Content-Length"))
        body = answer.read()
        assert bool(body) is (method == "GET")
    assert answers["GET"][:2] == answers["HEAD"][:2]
    assert int(answers["HEAD"][2]) > 0


def test_other_methods_are_refused():
    url = f"http://127.0.0.1:{serve_metrics('127.0.0.1', 0)}/metrics"
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(url, data=b"x", timeout=5)
