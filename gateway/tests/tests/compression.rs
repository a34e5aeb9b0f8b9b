//! Answers are compressed where their route asks for it, as the client wants it, and only where that is right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::Read;
use std::time::Duration;

use http_body_util::BodyExt;
use sluice_testkit::{Client, Gateway, Origin, Reply, RequestBuilder, Response, client, gateway, origin, raw, within};

/// Text that compresses well, and is too long for one piece.
fn page() -> String {
    (0..20_000).map(|n| format!("line {n} of a page\n")).collect()
}

async fn before(origin: &Origin) -> Gateway {
    gateway()
        .config(
            "
upstreams:
  origin: { endpoints: ['@origin@'] }
  modern: { endpoints: ['@origin@'], protocol: http2 }
routes:
  - { name: plain, match: { path: '/plain/*' }, upstream: origin }
  - { name: modern, match: { path: '/modern/*' }, compression: { level: 6 }, upstream: modern }
  - { name: all, match: { path: '/*' }, compression: {}, upstream: origin }
",
        )
        .set("origin", origin.address())
        .run()
        .await
}

fn ask(client: &Client, url: String, accepted: &str) -> RequestBuilder {
    client.get(url).header("accept-encoding", accepted)
}

/// What a strict decoder makes of an answer: one that does not forgive a missing end.
fn decoded(answer: &Response) -> String {
    let mut text = String::new();
    let body = &answer.body[..];
    match answer.header("content-encoding") {
        None => (&mut &body[..]).read_to_string(&mut text),
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_string(&mut text),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_string(&mut text),
        Some("zstd") => zstd::stream::read::Decoder::new(body).unwrap().read_to_string(&mut text),
        Some(other) => panic!("a coding that nobody asked for: {other}"),
    }
    .unwrap();
    text
}

#[tokio::test]
async fn every_coding_gives_back_what_the_origin_sent() {
    let origin =
        origin().otherwise(Reply::text(page()).header("etag", "\"v1\"").header("accept-ranges", "bytes")).run().await;
    let edge = before(&origin).await;
    for client in [client(), client().http2()] {
        for path in ["/page", "/modern/page"] {
            for coding in ["gzip", "br", "zstd"] {
                let answer = ask(&client, edge.url(path), coding).send().await;
                assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, Some(coding)));
                assert!(answer.body.len() * 2 < page().len(), "{coding}: {} bytes", answer.body.len());
                assert_eq!(decoded(&answer), page(), "{coding}");
                assert_eq!((answer.header("content-length"), answer.header("accept-ranges")), (None, None));
                assert_eq!((answer.header("etag"), answer.header("vary")), (Some("W/\"v1\""), Some("accept-encoding")));
            }
        }
    }
}

#[tokio::test]
async fn the_client_decides_which_coding_if_any() {
    let origin = origin().otherwise(Reply::text(page())).run().await;
    let edge = before(&origin).await;
    for (accepted, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip;q=1.0, br;q=0.5", Some("gzip")),
        ("br;q=0, gzip", Some("gzip")),
        ("gzip;q=0", None),
        ("identity", None),
        ("deflate", None),
    ] {
        let answer = ask(&client(), edge.url("/page"), accepted).send().await;
        assert_eq!(answer.header("content-encoding"), coding, "{accepted}");
        assert_eq!(decoded(&answer), page());
        // A cache must know that another client would have got another answer.
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "{accepted}");
    }
    let answer = client().get(edge.url("/page")).send().await;
    assert_eq!((answer.header("content-encoding"), answer.header("vary")), (None, Some("accept-encoding")));
    assert_eq!(answer.header("content-length"), Some(page().len().to_string().as_str()));
}

#[tokio::test]
async fn what_gains_nothing_or_must_stay_as_it_is_is_left_alone() {
    let typed = |kind: &str| {
        let length = page().len().to_string();
        Reply::drip([page()], Duration::ZERO).header("content-type", kind).header("content-length", &length)
    };
    let origin = origin()
        .on("/image", typed("image/png"))
        .on("/archive", typed("application/zip"))
        .on("/unknown", typed("application/octet-stream"))
        .on("/grpc", typed("application/grpc"))
        .on("/small", Reply::text("small"))
        .on("/coded", Reply::text(page()).header("content-encoding", "br"))
        .on("/fixed", Reply::text(page()).header("cache-control", "no-transform"))
        .on("/part", Reply::text(page()).with_status(206).header("content-range", "bytes 0-9/1000"))
        .on("/plain/page", Reply::text(page()))
        .run()
        .await;
    let edge = before(&origin).await;
    for path in ["/image", "/archive", "/unknown", "/grpc", "/small", "/coded", "/fixed", "/part", "/plain/page"] {
        let answer = ask(&client(), edge.url(path), "gzip").send().await;
        let coding = if path == "/coded" { Some("br") } else { None };
        assert_eq!(answer.header("content-encoding"), coding, "{path}");
        assert_eq!(answer.body, if path == "/small" { "small".to_owned() } else { page() }, "{path}");
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()), "{path}");
        assert_eq!(answer.header("vary"), None, "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_varies_already_varies_by_both() {
    let origin = origin()
        .on("/some", Reply::text(page()).header("vary", "accept-language"))
        .on("/same", Reply::text(page()).header("vary", "Accept-Language, Accept-Encoding"))
        .run()
        .await;
    let edge = before(&origin).await;
    let vary = async |path: &str| {
        let answer = ask(&client(), edge.url(path), "gzip").send().await;
        let lines: Vec<_> =
            answer.headers.get_all("vary").iter().map(|line| line.to_str().unwrap().to_owned()).collect();
        lines.join(", ")
    };
    assert_eq!(vary("/some").await, "accept-language, accept-encoding");
    assert_eq!(vary("/same").await, "Accept-Language, Accept-Encoding");
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one() {
    let origin = origin()
        .on("/page", Reply::text(page()))
        .on("/none", Reply::status(204).header("content-type", "text/plain"))
        .on("/same", Reply::status(304).header("content-type", "text/plain").header("etag", "\"v1\""))
        .run()
        .await;
    let edge = before(&origin).await;
    // On one connection, which a stray byte would put out of step.
    let mut connection = raw(edge.address()).await;
    for _ in 0..2 {
        for (method, path, status) in [("HEAD", "/page", 200), ("GET", "/none", 204), ("GET", "/same", 304)] {
            connection.send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n")).await;
            assert_eq!(connection.read_head().await.status, status, "{method} {path}");
        }
        connection.send("GET /page HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(connection.read_response().await.text(), page());
    }
    let head = client().http2().request("HEAD", edge.url("/page")).header("accept-encoding", "gzip").send().await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_plain_bytes() {
    let origin = origin().otherwise(Reply::text(page())).run().await;
    let edge = before(&origin).await;
    let mut connection = raw(edge.address()).await;
    connection.send("GET /page HTTP/1.0\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n").await;
    let answer = connection.read_response().await;
    assert_eq!((answer.header("content-encoding"), answer.text()), (None, page().as_str()));
}

#[tokio::test]
async fn a_conversation_is_compressed_without_being_held_back() {
    let events = ["data: one\n\n", "data: two\n\n", "data: three\n\n"];
    let origin = origin()
        .on("/events", Reply::drip(events, Duration::from_millis(150)).header("content-type", "text/event-stream"))
        .run()
        .await;
    let edge = before(&origin).await;
    for client in [client(), client().http2()] {
        let answer = ask(&client, edge.url("/events"), "gzip").try_stream().await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], "gzip");
        let mut body = answer.into_body();
        let (mut coded, mut pieces) = (Vec::new(), 0);
        while let Some(frame) = within("an event", body.frame()).await {
            coded.extend_from_slice(frame.unwrap().data_ref().unwrap());
            pieces += 1;
            // Every event can be read as soon as it is there, long before the next.
            let mut text = String::new();
            let _ = flate2::read::GzDecoder::new(&coded[..]).read_to_string(&mut text);
            let so_far = events[..pieces.min(events.len())].concat();
            assert!(text.starts_with(&so_far), "{text:?} after {pieces} pieces");
        }
        assert!(pieces >= events.len());
    }
}
