//! Plugins see bodies and trailers in the path of real messages: whole or piece by piece, over both versions of HTTP on both
//! sides; and an exchange that one of them ends is not taken for a whole one by anybody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use sluice_testkit::{
    Client, Gateway, Metrics, Origin, Reply, body_channel, client, gateway, grpc_message, origin, raw, within,
};

const BODIES: &[u8] = include_bytes!("../../../plugins/prebuilt/bodies.wasm");
const CHUNKS: &[u8] = include_bytes!("../../../plugins/prebuilt/chunks.wasm");

/// A plugin of that phase, on routes to an HTTP/1.1 upstream (`/old/*`) and an HTTP/2 one (`/new/*`).
async fn edge(origin: &Origin, phase: &str, does: &str, more: &str) -> Gateway {
    let component = if phase.ends_with("-chunk") || phase.ends_with("trailers") { "chunks" } else { "bodies" };
    gateway()
        .config(&format!(
            "
plugins:
  p: {{ component: {component}.wasm, config: {{ phase: {phase}, does: {does}, what: secret }}, limits: {{ deadline: 100ms }} {more} }}
upstreams:
  old: {{ endpoints: ['@origin@'] }}
  new: {{ endpoints: ['@origin@'], protocol: http2 }}
routes:
  - {{ name: coded, match: {{ path: '/coded/*' }}, compression: {{}}, plugins: [p], upstream: old }}
  - {{ name: streaming, match: {{ path: '/streaming/*' }}, streaming: true, plugins: [p], upstream: old }}
  - {{ name: new, match: {{ path: '/new/*' }}, plugins: [p], upstream: new }}
  - {{ name: old, match: {{ path: '/*' }}, plugins: [p], upstream: old }}
"
        ))
        .file("bodies.wasm", BODIES)
        .file("chunks.wasm", CHUNKS)
        .set("origin", origin.address())
        .run()
        .await
}

/// Every version of HTTP on the client's side with every one on the upstream's.
fn ways() -> [(Client, &'static str); 4] {
    [(client(), "/old/x"), (client().http2(), "/old/x"), (client(), "/new/x"), (client().http2(), "/new/x")]
}

fn invocations(metrics: &Metrics, phase: &str) -> f64 {
    metrics.value("sluice_plugin_invocations_total", &[("plugin", "p"), ("phase", phase)])
}

#[tokio::test]
async fn a_whole_request_body_is_changed_before_it_is_sent_over_every_version_of_http() {
    let origin = origin().run().await;
    let edge = edge(&origin, "request-body", "upper", "").await;
    for (client, path) in ways() {
        assert_eq!(client.post(edge.url(path), "hello").send().await.status, 200, "{path}");
        let seen = origin.last();
        assert_eq!((&seen.body[..], seen.header("content-length")), (&b"HELLO"[..], Some("5")), "{path}");
        assert_eq!(seen.header("x-body-size"), Some("5"), "{path}: a header that depends on the body");
        // Of unknown length.
        let (sender, body) = body_channel();
        let sent = tokio::spawn(client.request("POST", edge.url(path)).streaming(body).send());
        assert!(sender.send("one ").await && sender.send("two").await);
        drop(sender);
        assert_eq!(sent.await.unwrap().status, 200, "{path}");
        assert_eq!(origin.last().body, "ONE TWO", "{path}");
        // And none at all, which has a phase too.
        assert_eq!(client.get(edge.url(path)).send().await.status, 200, "{path}");
        assert_eq!((origin.last().body.len(), origin.last().header("x-body-size")), (0, Some("0")), "{path}");
    }
    assert_eq!(invocations(&edge.metrics().await, "request-body"), 12.0);
    edge.stop().await;
}

#[tokio::test]
async fn a_plugin_answers_or_refuses_by_the_body_and_nothing_is_sent_upstream() {
    let origin = origin().run().await;
    let answering = edge(&origin, "request-body", "answer", "").await;
    let refusing = edge(&origin, "request-body", "refuse", "").await;
    for (client, path) in ways() {
        let answer = client.post(answering.url(path), "hello").send().await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "hello"), "{path}");
        let refused = client.post(refusing.url(path), "hello").send().await;
        assert_eq!((refused.status.as_u16(), &refused.json()["detail"]), (403, &"not with this body".into()), "{path}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn a_body_too_long_to_be_seen_whole_is_refused_with_413() {
    let origin = origin().otherwise(Reply::sink()).run().await;
    let edge = edge(&origin, "request-body", "upper", "").await;
    let most = "x".repeat(64 << 10);
    for (client, path) in ways() {
        let answer = client.post(edge.url(path), most.clone()).send().await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(origin.last().body.len(), most.len());
        let before = origin.count();
        assert_eq!(client.post(edge.url(path), format!("{most}x")).send().await.status, 413, "{path}");
        assert_eq!(origin.count(), before);
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on_where_its_body_is_seen_first() {
    let origin = origin().run().await;
    let edge = edge(&origin, "request-body", "upper", "").await;
    let mut connection = raw(edge.address()).await;
    connection.send("POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(connection.read_head().await.status, 100);
    connection.send("hello").await;
    assert_eq!(connection.read_response().await.status, 200);
    assert_eq!((&origin.last().body[..], origin.last().header("expect")), (&b"HELLO"[..], None));
}

#[tokio::test]
async fn pieces_of_a_request_are_changed_as_they_go_by() {
    let origin = origin().otherwise(Reply::mirror()).run().await;
    let edge = edge(&origin, "request-chunk", "number", "").await;
    for client in [client(), client().http2()] {
        let (sender, body) = body_channel();
        let request = client.request("POST", edge.url("/streaming/x")).streaming(body).try_stream();
        let feed = async {
            for piece in ["ab", "cd"] {
                assert!(sender.send(piece).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            drop(sender);
        };
        let (response, ()) = tokio::join!(within("the answer's head", request), feed);
        let body = http_body_util::BodyExt::collect(response.unwrap().into_body());
        let body = within("the answer", body).await.unwrap().to_bytes();
        assert!(body.starts_with(b"[1:ab]") && body.ends_with(b"$]"), "{body:?}");
    }
}

#[tokio::test]
async fn a_plugin_that_ends_a_request_on_its_way_is_a_refusal_if_nothing_was_answered_yet() {
    let origin = origin().otherwise(Reply::sink()).run().await;
    let edge = edge(&origin, "request-chunk", "abort-on", "").await;
    for (client, path) in ways() {
        assert_eq!(client.post(edge.url(path), "harmless").send().await.status, 200, "{path}");
        let refused = client.post(edge.url(path), "a secret").send().await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["type"]),
            (403, &"urn:sluice:problem:plugin-refused".into())
        );
    }
}

#[tokio::test]
async fn responses_are_changed_piece_by_piece_and_whole_over_every_version_of_http() {
    let text = "a page of text ".repeat(20);
    let reply = Reply::text(text.clone()).header("etag", "\"v1\"").header("accept-ranges", "bytes");
    let origin = origin().otherwise(reply).run().await;
    for phase in ["response-chunk", "response-body"] {
        let edge = edge(&origin, phase, "upper", "").await;
        for (client, path) in ways() {
            let request = client.get(edge.url(path)).header("range", "bytes=0-3").header("accept-encoding", "gzip");
            let answer = request.send().await;
            assert_eq!((answer.status.as_u16(), answer.text()), (200, &*text.to_uppercase()), "{phase} {path}");
            let told = ["content-length", "accept-ranges", "etag"].map(|name| answer.header(name));
            assert_eq!(told, [None, None, Some("W/\"v1\"")], "{phase} {path}");
            // A part, or a coding that the plugin cannot read, would hide from it what it is there to see.
            let seen = origin.last();
            assert_eq!((seen.header("range"), seen.header("accept-encoding")), (None, Some("identity")));
        }
        // And then compressed.
        let answer = client().get(edge.url("/coded/x")).header("accept-encoding", "gzip").send().await;
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        let mut decoded = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut decoded).unwrap();
        assert_eq!(decoded, text.to_uppercase(), "{phase}");
        // A client that cannot be sent chunks gets a body that ends with its connection.
        let mut old = raw(edge.address()).await;
        old.send("GET /x HTTP/1.0\r\nhost: a\r\n\r\n").await;
        let all = String::from_utf8(old.read_to_end().await).unwrap();
        assert!(all.ends_with(&text.to_uppercase()) && !all.to_lowercase().contains("chunked"), "{all}");
        let head = client().request("HEAD", edge.url("/x")).send().await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, None));
        edge.stop().await;
    }
}

#[tokio::test]
async fn a_response_that_a_plugin_ends_in_the_middle_is_not_taken_for_a_whole_one() {
    let pieces = ["public", " a secret", " more"];
    for does in ["abort-on", "trap-late", "loop"] {
        let origin = origin().otherwise(Reply::drip(pieces, Duration::from_millis(20))).run().await;
        let edge = edge(&origin, "response-chunk", does, "").await;
        for (client, path) in ways() {
            let cut = client.get(edge.url(path)).try_send().await;
            assert!(cut.is_err(), "{does} {path}: {cut:?}");
        }
        let metrics = edge.metrics().await;
        assert_eq!(metrics.value("sluice_plugin_instances", &[("plugin", "p")]), 0.0, "{does}");
        edge.stop().await;
    }
}

#[tokio::test]
async fn who_may_be_skipped_fails_in_the_middle_and_the_response_is_whole() {
    let pieces = ["public", " a secret", " more"];
    let origin = origin().otherwise(Reply::drip(pieces, Duration::from_millis(20))).run().await;
    for (phase, does) in [("response-chunk", "trap-late"), ("response-chunk", "loop"), ("response-body", "trap")] {
        let edge = edge(&origin, phase, does, ", on_failure: skip").await;
        for (client, path) in ways() {
            assert_eq!(client.get(edge.url(path)).send().await.text(), pieces.concat(), "{does} {path}");
        }
        edge.stop().await;
    }
}

#[tokio::test]
async fn trailers_are_read_and_changed_between_http2_sides() {
    let reply = Reply::grpc(&[b"answer"], 0).trailer("x-secret", "s");
    let origin = origin().otherwise(reply).run().await;
    let marking = edge(&origin, "response-trailers", "mark", "").await;
    let ending = edge(&origin, "response-trailers", "abort", "").await;
    let ask = |edge: &Gateway| {
        client()
            .http2()
            .post(edge.url("/new/x"), grpc_message(b"ask"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    };
    let answer = ask(&marking).send().await;
    assert_eq!(answer.body, grpc_message(b"answer"));
    let told = ["grpc-status", "x-seen", "x-secret"].map(|name| answer.trailer(name));
    assert_eq!(told, [Some("0"), Some("0"), None]);
    // Where nothing was sent yet it is a refusal; otherwise the stream is cut. It never looks like a success.
    if let Ok(refused) = ask(&ending).try_send().await {
        assert_eq!((refused.header("grpc-status"), refused.body.len()), (Some("7"), 0), "{refused:?}");
    }
}

#[tokio::test]
async fn plugins_are_told_how_each_exchange_went() {
    let origin = origin().otherwise(Reply::text("four")).run().await;
    let edge = edge(&origin, "exchange-end", "nothing", "").await;
    client().post(edge.url("/told"), "body").send().await;
    let line = edge.log_line("the end", |line| line.message().contains("/told ended")).await;
    assert_eq!(
        line.message(),
        "/told ended: status Some(200), 4 bytes in, 4 out, upstream Some(\"old\"), refused None"
    );
    assert_eq!(invocations(&edge.metrics().await, "exchange-end"), 1.0);
    edge.stop().await;
}
