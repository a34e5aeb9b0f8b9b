//! Every protocol that a client may speak reaches the origin: HTTP/1.1 and HTTP/2, in cleartext and over both versions of
//! TLS; WebSocket; gRPC of every shape. Certificates are chosen by name, and changed ones are taken up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, SupportedProtocolVersion};
use sluice_testkit::websocket::{Kind, WebSocket, handshake};
use sluice_testkit::{
    Authority, Client, Gateway, GatewayBuilder, Issuer, Origin, Reply, authority, body_channel, client, eventually,
    gateway, grpc_message, issuer, origin, raw, raw_tls, within,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ROUTES: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
";

/// A gateway with one TLS listener, its certificates being `name.crt` and `name.key` for each of `names`.
fn secure(names: &[&str], authority: &Authority, origin: &Origin) -> GatewayBuilder {
    let list: Vec<String> = names.iter().map(|name| format!("{{ cert: '{name}.crt', key: '{name}.key' }}")).collect();
    let listener = format!(
        "listeners:\n  - {{ address: '127.0.0.1:0', tls: {{ certificates: [{}] }} }}\n{ROUTES}",
        list.join(", ")
    );
    let mut builder = gateway().config(&listener).set("origin", origin.address());
    for name in names {
        let leaf = authority.leaf(&[name]);
        builder = builder.file(&format!("{name}.crt"), leaf.chain_pem()).file(&format!("{name}.key"), leaf.key_pem());
    }
    builder
}

/// A client configuration that speaks one version of TLS alone.
fn only(version: &'static SupportedProtocolVersion, authority: &Authority) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth()
}

async fn shake(at: SocketAddr, name: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    within("a TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

#[tokio::test]
async fn both_versions_of_http_pass_over_both_versions_of_tls() {
    let authority = authority();
    let origin = origin().run().await;
    let edge = secure(&["edge.example"], &authority, &origin).run().await;
    for version in [&TLS12, &TLS13] {
        let one = client().tls_config(only(version, &authority)).to(edge.address());
        for (client, http) in [(one.clone(), http::Version::HTTP_11), (one.http2(), http::Version::HTTP_2)] {
            let answer = client.post("https://edge.example/both", "hello").send().await;
            assert_eq!((answer.status.as_u16(), answer.version), (200, http), "{version:?}");
            let told = answer.json();
            assert_eq!((&told["authority"], &told["body"]), (&"edge.example".into(), &"hello".into()));
            assert_eq!(told["headers"]["x-forwarded-proto"], "https");
        }
    }
}

#[tokio::test]
async fn the_newest_tls_and_http2_are_chosen_where_the_client_leaves_the_choice() {
    let authority = authority();
    let origin = origin().run().await;
    let edge = secure(&["edge.example"], &authority, &origin).run().await;
    let stream = shake(edge.address(), "edge.example", authority.client_config(&["http/1.1", "h2"])).await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    // A client that says nothing of HTTP gets what it always was.
    let mut connection = raw_tls(edge.address(), "edge.example", authority.client_config(&[])).await;
    connection.send("GET / HTTP/1.1\r\nhost: edge.example\r\n\r\n").await;
    assert_eq!(connection.read_response().await.status, 200);
}

#[tokio::test]
async fn a_listener_without_http2_offers_none() {
    let authority = authority();
    let leaf = authority.leaf(&["edge.example"]);
    let origin = origin().run().await;
    let edge = gateway()
        .config(&format!(
            "listeners:\n  - address: '127.0.0.1:0'\n    http2: false\n    \
             tls: {{ certificates: [{{ cert: edge.crt, key: edge.key }}] }}\n{ROUTES}"
        ))
        .file("edge.crt", leaf.chain_pem())
        .file("edge.key", leaf.key_pem())
        .set("origin", origin.address())
        .run()
        .await;
    let stream = shake(edge.address(), "edge.example", authority.client_config(&["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let authority = authority();
    let origin = origin().run().await;
    let edge = secure(&["first.example", "second.example", "*.wild.example"], &authority, &origin).run().await;
    // A client that verifies is content only with the right one.
    for name in ["first.example", "second.example", "any.wild.example"] {
        let client = client().trusting(&authority).to(edge.address());
        assert_eq!(client.get(format!("https://{name}/")).send().await.status, 200, "{name}");
    }
    // Who asks for a name that no certificate has is shown the first.
    let refused = shake(edge.address(), "other.example", authority.client_config(&[])).await.unwrap_err().to_string();
    assert!(refused.contains("first.example"), "{refused}");
}

#[tokio::test]
async fn changed_certificate_files_are_taken_up_while_old_connections_go_on() {
    let (before, after) = (authority(), authority());
    let origin = origin().run().await;
    let edge = secure(&["edge.example"], &before, &origin).run().await;
    let trusting = |authority: &Authority| client().trusting(authority).to(edge.address());
    let url = "https://edge.example/";
    let old = trusting(&before);
    let connection = old.connect(url).await.unwrap();
    assert_eq!(connection.send(old.get(url)).await.status, 200);
    assert!(trusting(&after).connect(url).await.is_err(), "the new authority was believed too early");

    after.leaf(&["edge.example"]).write(edge.folder(), "edge.example");
    eventually("the new certificate", async || trusting(&after).connect(url).await.ok()).await;
    assert!(trusting(&before).connect(url).await.is_err(), "the old certificate is still shown");
    assert_eq!(connection.send(old.get(url)).await.status, 200);
}

#[tokio::test]
async fn a_certificate_file_that_is_broken_leaves_the_good_one_in_use() {
    let authority = authority();
    let origin = origin().run().await;
    let edge = secure(&["edge.example"], &authority, &origin).run().await;
    std::fs::write(edge.folder().join("edge.example.crt"), "no certificate at all").unwrap();
    edge.log_line("word of the broken file", |line| line.text.contains("edge.example.crt")).await;
    let client = client().trusting(&authority).to(edge.address());
    assert_eq!(client.get("https://edge.example/").send().await.status, 200);
}

// WebSocket.

async fn with_sockets(extra: &str, origin: &Origin) -> Gateway {
    let config = ROUTES.replace("endpoints:", &format!("{extra} endpoints:"));
    gateway().config(&config).set("origin", origin.address()).run().await
}

async fn echoes(socket: &mut WebSocket, text: &str) {
    socket.send(text).await;
    assert_eq!(socket.receive_text().await, text);
}

#[tokio::test]
async fn a_websocket_passes_over_tls_and_ends_as_either_side_ends_it() {
    let authority = authority();
    let origin = origin().on("/ws", Reply::websocket()).run().await;
    let edge = secure(&["edge.example"], &authority, &origin).run().await;
    let stream = raw_tls(edge.address(), "edge.example", authority.client_config(&["http/1.1"])).await;
    let mut socket = WebSocket::open(stream, "edge.example", "/ws", &["sec-websocket-protocol: chat"]).await;
    echoes(&mut socket, "hello").await;
    let seen = origin.last();
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert_eq!(seen.header("sec-websocket-protocol"), Some("chat"));
    // The origin answers a close with a close and ends its connection.
    socket.send_frame(Kind::Close, &[0x03, 0xe8]).await;
    assert_eq!(socket.receive().await, Some((Kind::Close, vec![0x03, 0xe8])));
    assert_eq!(socket.receive().await, None);

    let stream = raw_tls(edge.address(), "edge.example", authority.client_config(&["http/1.1"])).await;
    let mut socket = WebSocket::open(stream, "edge.example", "/ws", &[]).await;
    echoes(&mut socket, "again").await;
    drop(socket);
    eventually("the origin's connection to end", async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn what_a_client_sends_right_behind_its_handshake_is_not_lost() {
    let origin = origin().on("/ws", Reply::websocket()).run().await;
    let edge = with_sockets("", &origin).await;
    let mut connection = raw(edge.address()).await;
    // A masked text frame "hi" in the same segment as the handshake.
    let mut bytes = handshake("edge.example", "/ws", &[]).into_bytes();
    bytes.extend([0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    connection.send(bytes).await;
    assert_eq!(connection.read_head().await.status, 101);
    let mut echo = [0; 4];
    within("the echo", tokio::io::AsyncReadExt::read_exact(&mut connection, &mut echo)).await.unwrap();
    assert_eq!(echo, [0x81, 2, b'h', b'i']);
}

#[tokio::test]
async fn a_websocket_outlives_the_total_deadline_and_ends_when_silent() {
    let origin = origin().on("/ws", Reply::websocket()).run().await;
    let edge = with_sockets("timeouts: { response: 300ms, total: 300ms, upgraded_idle: 1s },", &origin).await;
    let mut socket = WebSocket::open(raw(edge.address()).await, "edge.example", "/ws", &[]).await;
    for _ in 0..4 {
        echoes(&mut socket, "still here").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    echoes(&mut socket, "beyond the total").await;
    assert_eq!(socket.receive().await, None, "a silent connection was kept");
}

#[tokio::test]
async fn a_websocket_without_a_token_is_refused_where_one_is_asked_for() {
    let origin = origin().on("/ws", Reply::websocket()).run().await;
    let corp = issuer().run().await;
    let edge = guarded(&origin, &corp, "").await;
    let mut connection = raw(edge.address()).await;
    connection.send(handshake("edge.example", "/ws", &[])).await;
    let refusal = connection.read_response().await;
    assert_eq!(refusal.status, 401);
    assert!(refusal.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{refusal:?}");
    assert_eq!(origin.count(), 0, "a handshake without a token reached the origin");

    let token = format!("authorization: Bearer {}", corp.token().sign());
    let mut socket = WebSocket::open(raw(edge.address()).await, "edge.example", "/ws", &[&token]).await;
    echoes(&mut socket, "with a token").await;
}

#[tokio::test]
async fn an_upgrade_that_the_origin_declines_is_an_ordinary_answer() {
    let origin = origin().on("/ws", Reply::text("no sockets here").with_status(403)).run().await;
    let edge = with_sockets("", &origin).await;
    let mut connection = raw(edge.address()).await;
    connection.send(handshake("edge.example", "/ws", &[])).await;
    let answer = connection.read_response().await;
    assert_eq!((answer.status, answer.text()), (403, "no sockets here"));
}

#[tokio::test]
async fn an_upgrade_to_anything_but_websocket_is_not_passed_on() {
    let origin = origin().run().await;
    let edge = with_sockets("", &origin).await;
    let mut connection = raw(edge.address()).await;
    connection
        .send(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
             http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        )
        .await;
    assert_eq!(connection.read_response().await.status, 200);
    let seen = origin.last();
    assert_eq!((seen.header("upgrade"), seen.header("http2-settings"), seen.header("connection")), (None, None, None));
}

// gRPC.

/// A gateway whose route asks for a token of `corp`.
async fn guarded(origin: &Origin, corp: &Issuer, extra: &str) -> Gateway {
    gateway()
        .config(&format!(
            "
issuers:
  corp: {{ issuer: '@corp@', audiences: [edge], algorithms: [RS256], jwks: {{ url: '@jwks@' }} }}
upstreams:
  origin: {{ {extra} endpoints: ['@origin@'] }}
routes:
  - {{ name: all, match: {{ path: '/*' }}, auth: {{ issuer: corp }}, upstream: origin }}
"
        ))
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await
}

fn call(client: &Client, url: String) -> sluice_testkit::RequestBuilder {
    client.post(url, grpc_message(b"ask")).header("content-type", "application/grpc+proto").header("te", "trailers")
}

/// The next piece of a body that is data.
async fn piece(body: &mut Incoming) -> Option<Bytes> {
    let frame = within("a piece of the answer", body.frame()).await?.unwrap();
    Some(frame.into_data().unwrap_or_default())
}

#[tokio::test]
async fn grpc_passes_over_tls_on_both_sides() {
    let (clients, inside) = (authority(), authority());
    let leaf = clients.leaf(&["edge.example"]);
    let origin = origin()
        .tls(&inside.leaf(&["origin.internal"]))
        .on("/shop.Orders/Get", Reply::grpc(&[b"answer"], 0).header("x-meta", "1").trailer("x-cost", "7"))
        .run()
        .await;
    let edge = gateway()
        .config(&format!(
            "listeners:\n  - {{ address: '127.0.0.1:0', tls: {{ certificates: [{{ cert: e.crt, key: e.key }}] }} }}\n{}",
            ROUTES.replace("endpoints:", "protocol: http2, tls: { server_name: origin.internal, ca: ca.crt }, endpoints:")
        ))
        .file("e.crt", leaf.chain_pem())
        .file("e.key", leaf.key_pem())
        .file("ca.crt", inside.pem())
        .set("origin", origin.address())
        .run()
        .await;
    let client = client().http2().trusting(&clients).to(edge.address());
    let answer =
        call(&client, "https://edge.example/shop.Orders/Get".to_owned()).header("grpc-timeout", "2S").send().await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some("application/grpc")));
    assert_eq!(answer.body, grpc_message(b"answer"));
    assert_eq!((answer.trailer("grpc-status"), answer.trailer("x-cost")), (Some("0"), Some("7")));
    assert_eq!(answer.header("x-meta"), Some("1"));
    let seen = origin.last();
    assert_eq!((seen.header("te"), seen.header("grpc-timeout")), (Some("trailers"), Some("2S")));
    assert_eq!(seen.body, grpc_message(b"ask"));
}

#[tokio::test]
async fn a_grpc_stream_from_the_server_arrives_message_by_message() {
    let messages: Vec<Bytes> = (0..5).map(|n: u8| grpc_message(&[n])).collect();
    let origin = origin()
        .on(
            "/shop.Orders/Watch",
            Reply::drip(messages.clone(), Duration::from_millis(100))
                .header("content-type", "application/grpc")
                .trailer("grpc-status", "0"),
        )
        .run()
        .await;
    let edge = with_sockets("protocol: http2,", &origin).await;
    let response = call(&client().http2(), edge.url("/shop.Orders/Watch")).try_stream().await.unwrap();
    let mut body = response.into_body();
    for message in &messages {
        // Each comes by itself: nothing waits for the next one, which is a tenth of a second away.
        assert_eq!(piece(&mut body).await.as_ref(), Some(message));
    }
    let trailers = within("trailers", body.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn a_grpc_stream_in_both_directions_is_a_conversation() {
    let origin = origin()
        .on("/shop.Chat/Talk", Reply::mirror().header("content-type", "application/grpc").trailer("grpc-status", "0"))
        .run()
        .await;
    let edge = with_sockets("protocol: http2,", &origin).await;
    let (sender, body) = body_channel();
    let response =
        within("the answer's head", call(&client().http2(), edge.url("/shop.Chat/Talk")).streaming(body).try_stream());
    let mut answers = response.await.unwrap().into_body();
    // Each message is answered before the next is said.
    for n in 0..20_u8 {
        let message = grpc_message(&[n; 100]);
        assert!(sender.send(message.clone()).await);
        assert_eq!(piece(&mut answers).await, Some(message));
    }
    drop(sender);
    while let Some(rest) = piece(&mut answers).await {
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn a_grpc_status_without_a_message_passes_as_it_is() {
    let refusal = Reply::status(200)
        .header("content-type", "application/grpc")
        .header("grpc-status", "5")
        .header("grpc-message", "no such order");
    let origin = origin().on("/shop.Orders/Get", refusal).run().await;
    let edge = with_sockets("protocol: http2,", &origin).await;
    let answer = call(&client().http2(), edge.url("/shop.Orders/Get")).send().await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, Some("5")));
    assert_eq!(answer.header("grpc-message"), Some("no such order"));
}

#[tokio::test]
async fn what_the_gateway_refuses_a_grpc_client_is_told_as_a_grpc_status() {
    let origin = origin().on("/shop.Orders/Broken", Reply::reset()).run().await;
    let corp = issuer().run().await;
    let edge = guarded(&origin, &corp, "protocol: http2,").await;
    let client = client().http2();
    let assert_status = |answer: &sluice_testkit::Response, status: &str| {
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, Some(status)), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert!(answer.header("grpc-message").is_some_and(|text| !text.is_empty()) && answer.body.is_empty());
    };
    assert_status(&call(&client, edge.url("/shop.Orders/Get")).send().await, "16");
    assert_eq!(origin.count(), 0);
    let token = corp.token().sign();
    assert_status(&call(&client, edge.url("/shop.Orders/Broken")).bearer(&token).send().await, "14");
    // A status in the header counts only if the header is all there is: its frame must end the stream.
    let refused = call(&client, edge.url("/shop.Orders/Get")).try_stream().await.unwrap();
    assert!(refused.body().is_end_stream(), "{refused:?}");
    let broken = call(&client, edge.url("/shop.Orders/Broken")).bearer(&token).try_stream().await.unwrap();
    assert!(broken.body().is_end_stream(), "{broken:?}");
    // The same refusal to anybody else is HTTP's.
    let plain = client.post(edge.url("/shop.Orders/Get"), "ask").send().await;
    assert_eq!((plain.status.as_u16(), plain.header("content-type")), (401, Some("application/problem+json")));
}

#[tokio::test]
async fn a_grpc_client_that_hangs_up_ends_its_stream_at_the_origin() {
    let origin = origin().on("/shop.Orders/Watch", Reply::chunked_zeros(1 << 40)).run().await;
    let edge = with_sockets("protocol: http2,", &origin).await;
    let client = client().http2();
    let connection = client.connect(edge.url("/")).await.unwrap();
    let response = connection.stream(call(&client, edge.url("/shop.Orders/Watch"))).await.unwrap();
    drop(response);
    // Nothing is produced any more, although the connection stays and serves others.
    eventually("the origin to stop producing", async || {
        let before = origin.bytes_produced();
        tokio::time::sleep(Duration::from_millis(300)).await;
        (origin.bytes_produced() == before).then_some(())
    })
    .await;
    assert_eq!(connection.send(client.get(edge.url("/other"))).await.status, 200);
    // Standing still might be back-pressure; a stream that ended leaves no request in flight.
    edge.metrics_when("no request in flight", |metrics| metrics.value("sluice_requests_active", &[]) == 0.0).await;
}
