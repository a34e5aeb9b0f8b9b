//! The ways in which two parsers of one connection have been made to disagree, each with a second request hidden where
//! the lenient one would find it. The hidden request must never come through.

use serde_json::json;

use crate::world::{edge, status};

/// What a payload may come to: the statuses that are answered, and the targets that come through.
type Outcome = (&'static [u16], &'static [&'static str]);

const REFUSED: Outcome = (&[400], &[]);

#[tokio::test(flavor = "multi_thread")]
async fn no_hidden_request_comes_through() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let table: [(&str, String, Outcome); 16] = [
        (
            "CL.TE",
            format!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
            (&[200], &["/"]),
        ),
        (
            "TE.CL",
            format!(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
                hidden.len()
            ),
            (&[200], &["/"]),
        ),
        (
            "TE.TE with a space",
            format!("Transfer-Encoding: chunked\r\nTransfer-Encoding : x\r\n\r\n0\r\n\r\n{hidden}"),
            REFUSED,
        ),
        (
            "TE.TE with an unknown one",
            format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n{hidden}"),
            REFUSED,
        ),
        (
            "TE behind a vertical tab",
            format!("Transfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
            REFUSED,
        ),
        (
            "TE behind a fold",
            format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
            REFUSED,
        ),
        (
            "TE after a bare LF",
            format!("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
            REFUSED,
        ),
        (
            "TE after a bare CR",
            format!("X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
            REFUSED,
        ),
        ("TE with chunked not last", format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"), REFUSED),
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()), REFUSED),
        ("two lengths in one", format!("Content-Length: 0, {}\r\n\r\n{hidden}", hidden.len()), REFUSED),
        ("a signed length", format!("Content-Length: +0\r\n\r\n{hidden}"), REFUSED),
        ("a header cut by NUL", format!("X: \0\r\nContent-Length: 0\r\n\r\n{hidden}"), REFUSED),
        ("a chunk line ended by LF", format!("Transfer-Encoding: chunked\r\n\r\n0\n\r\n{hidden}"), (&[400], &["/"])),
        (
            "a chunk extension with LF",
            format!("Transfer-Encoding: chunked\r\n\r\n1;x\nGET /hidden HTTP/1.1\r\n\r\n0\r\n\r\n{hidden}"),
            (&[400], &["/"]),
        ),
        (
            "a chunk size that overflows",
            format!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{hidden}"),
            (&[400], &["/"]),
        ),
    ];
    let edge = edge(json!({})).await;
    for (name, rest, (statuses, targets)) in table {
        let response = edge.exchange(format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}")).await;
        let answered: Vec<u16> = response.match_indices("HTTP/1.1 ").map(|(at, _)| status(&response[at..])).collect();
        assert_eq!(answered, statuses, "{name}: {response:?}");
        let came: Vec<String> = edge.app.so_far().await.into_iter().map(|saw| saw.target).collect();
        assert_eq!(came, targets, "{name}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_within_a_body_is_only_a_body() {
    let edge = edge(json!({})).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = edge.connect().await;
    client.send(format!("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len())).await;
    assert_eq!(client.response().await.1, hidden);
    client
        .send(format!(
            "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
            hidden.len()
        ))
        .await;
    assert_eq!(client.response().await.1, hidden);
    let came: Vec<String> = edge.app.so_far().await.into_iter().map(|saw| saw.target).collect();
    assert_eq!(came, ["/1", "/2"]);
    edge.stop().await;
}
