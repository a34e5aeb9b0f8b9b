//! What an origin is told is what was authorised: one path, one host, one length, who the client is by the word of those
//! who are trusted to say it, and nothing that belongs to the client's own connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use sluice_testkit::{Gateway, Origin, Reply, client, gateway, origin, raw, raw_origin};

const ROUTES: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
";

/// A gateway with this `downstream` section.
async fn with(downstream: &str, origin: &Origin) -> Gateway {
    let config = format!("downstream: {{ {downstream} }}\n{ROUTES}");
    gateway().config(&config).set("origin", origin.address()).run().await
}

/// A gateway with these routes in place of the one.
async fn routing(routes: &str, origin: &Origin) -> Gateway {
    let config = format!("upstreams:\n  origin: {{ endpoints: ['@origin@'] }}\nroutes:\n{routes}");
    gateway().config(&config).set("origin", origin.address()).run().await
}

/// The values of a field that came to the origin, each line by itself.
fn lines(origin: &Origin, name: &str) -> Vec<String> {
    origin.last().headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_path_that_is_brought_into_its_one_form_keeps_its_host() {
    let origin = origin().run().await;
    let edge = with("", &origin).await;
    for client in [client(), client().http2()] {
        for path in ["/a/b", "/a/./b", "/a/x/../b"] {
            assert_eq!(client.get(edge.url(path)).send().await.status, 200);
            let seen = origin.last();
            assert_eq!((&*seen.target, seen.authority), ("/a/b", Some(edge.address().to_string())), "{path}");
        }
    }
}

// Who the client is.

#[tokio::test]
async fn what_a_stranger_says_of_its_address_is_replaced() {
    let origin = origin().run().await;
    let edge = with("send_forwarded: true", &origin).await;
    for client in [client(), client().http2()] {
        let request = client.get(edge.url("/")).header("x-forwarded-for", "198.51.100.1");
        let request = request.header("x-forwarded-proto", "https").header("x-forwarded-host", "evil.example");
        assert_eq!(request.header("forwarded", "for=198.51.100.1").send().await.status, 200);
        assert_eq!(lines(&origin, "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(lines(&origin, "x-forwarded-proto"), ["http"]);
        assert_eq!(lines(&origin, "x-forwarded-host"), ["127.0.0.1"]);
        assert_eq!(lines(&origin, "forwarded"), ["for=127.0.0.1;host=\"127.0.0.1\";proto=http"]);
    }
}

#[tokio::test]
async fn a_trusted_proxys_word_is_continued() {
    let origin = origin().run().await;
    let edge = with("trusted_proxies: [127.0.0.1/32, 10.0.0.0/8]", &origin).await;
    let request = client().get(edge.url("/")).header("x-forwarded-for", "203.0.113.9, 198.51.100.1");
    request.header("x-forwarded-for", "10.1.2.3").header("x-forwarded-proto", "https").send().await;
    assert_eq!(lines(&origin, "x-forwarded-for"), ["203.0.113.9, 198.51.100.1, 10.1.2.3, 127.0.0.1"]);
    assert_eq!(lines(&origin, "x-forwarded-proto"), ["https"]);
    // The other way of writing it is not this proxy's, so what stands there is the client's.
    client().get(edge.url("/")).header("forwarded", "for=198.51.100.1").send().await;
    assert_eq!((lines(&origin, "x-forwarded-for"), lines(&origin, "forwarded")), (vec!["127.0.0.1".into()], vec![]));
}

#[tokio::test]
async fn the_address_that_a_trusted_proxy_vouches_for_is_the_one_that_is_judged() {
    let origin = origin().run().await;
    let config = "
downstream: { trusted_proxies: [127.0.0.1/32] }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, addresses: { deny: [198.51.100.0/24] }, upstream: origin }
";
    let edge = gateway().config(config).set("origin", origin.address()).run().await;
    let from =
        async |chain: &str| client().get(edge.url("/")).header("x-forwarded-for", chain).send().await.status.as_u16();
    assert_eq!(from("198.51.100.7").await, 403);
    assert_eq!(from("203.0.113.7, 198.51.100.7").await, 403);
    // Left of the nearest untrusted address anybody can write anything.
    assert_eq!(from("198.51.100.7, 203.0.113.7").await, 200);
}

#[tokio::test]
async fn the_proxy_protocol_tells_the_clients_address() {
    let origin = origin().run().await;
    let edge = gateway()
        .config(&format!(
            "listeners:\n  - {{ address: '127.0.0.1:0', proxy_protocol: {{ from: [127.0.0.0/8] }} }}\n{ROUTES}"
        ))
        .set("origin", origin.address())
        .run()
        .await;
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend([203, 0, 113, 8, 127, 0, 0, 1, 0x11, 0x51, 0, 80]);
    let first = b"PROXY TCP4 203.0.113.7 127.0.0.1 4433 80\r\n".to_vec();
    for (header, address) in [(first, "203.0.113.7"), (second, "203.0.113.8")] {
        let mut connection = raw(edge.address()).await;
        connection.send([&header[..], b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 1.2.3.4\r\n\r\n"].concat()).await;
        assert_eq!(connection.read_response().await.status, 200);
        assert_eq!(lines(&origin, "x-forwarded-for"), [address]);
    }
    // From those who must send it nothing else is taken, or anybody could leave it out.
    let mut connection = raw(edge.address()).await;
    connection.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    connection.expect_end().await;
    assert_eq!(origin.count(), 2);
}

// Identifiers.

#[tokio::test]
async fn every_request_has_an_id_that_client_and_origin_both_see() {
    let origin = origin().run().await;
    let edge = with("", &origin).await;
    let mut seen = Vec::new();
    for client in [client(), client().http2()] {
        let answer = client.get(edge.url("/")).header("x-request-id", "forged-id-of-a-stranger").send().await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(lines(&origin, "x-request-id"), [id.as_str()]);
        assert!(id.len() >= 16 && !id.contains("forged") && !seen.contains(&id), "{id}");
        seen.push(id);
    }
    // A refusal has one too.
    let refusal = raw_refusal(&edge, "GET /../.. HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(refusal.0 == 400 && refusal.1.len() >= 16, "{refusal:?}");
}

async fn raw_refusal(edge: &Gateway, request: &str) -> (u16, String) {
    let mut connection = raw(edge.address()).await;
    connection.send(request).await;
    let answer = connection.read_response().await;
    (answer.status, answer.header("x-request-id").unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_trusted_proxys_request_id_is_kept() {
    let origin = origin().run().await;
    let edge = with("trusted_proxies: [127.0.0.1/32]", &origin).await;
    let answer = client().get(edge.url("/")).header("x-request-id", "given-by-the-proxy").send().await;
    assert_eq!(answer.header("x-request-id"), Some("given-by-the-proxy"));
    assert_eq!(lines(&origin, "x-request-id"), ["given-by-the-proxy"]);
    // Not so one that would break a log line or a header.
    client().get(edge.url("/")).header("x-request-id", "an id with spaces").send().await;
    assert!(!lines(&origin, "x-request-id")[0].contains(' '));
}

#[tokio::test]
async fn a_trace_is_continued_and_begun_where_there_is_none() {
    let origin = origin().run().await;
    let edge = with("trusted_proxies: [127.0.0.1/32]", &origin).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    client().get(edge.url("/")).header("traceparent", parent).header("tracestate", "a=1,b=2").send().await;
    let told = lines(&origin, "traceparent");
    let parts: Vec<&str> = told[0].split('-').collect();
    assert_eq!((told.len(), parts[1], parts[3]), (1, "4bf92f3577b34da6a3ce929d0e0e4736", "01"));
    assert_ne!(parts[2], "00f067aa0ba902b7", "the origin must see the gateway's own span as its parent");
    assert_eq!(lines(&origin, "tracestate"), ["a=1,b=2"]);

    client().get(edge.url("/")).header("traceparent", "00-nonsense-nonsense-01").send().await;
    let told = lines(&origin, "traceparent");
    assert!(told.len() == 1 && told[0].len() == 55 && !told[0].contains("nonsense"), "{told:?}");
}

// One path, one host, one length.

#[tokio::test]
async fn the_origin_receives_the_path_in_its_one_form() {
    let origin = origin().run().await;
    let edge = with("", &origin).await;
    for (sent, received) in [
        ("/a/../b", "/b"),
        ("/a/./b/", "/a/b/"),
        ("//a///b", "/a/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/%2E%2e/%7Euser", "400"),
        ("/%7Euser/%41", "/~user/A"),
        ("/a%20b/%c3%a9", "/a%20b/%C3%A9"),
        ("/a?x=/../%2e%2e//&y", "/a?x=/../%2e%2e//&y"),
        ("/a/..%2fb", "400"),
        ("/a%5cb", "400"),
        ("/a%00b", "400"),
        ("/%zz", "400"),
        ("/../a", "400"),
    ] {
        let mut connection = raw(edge.address()).await;
        connection.send(format!("GET {sent} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let answer = connection.read_response().await;
        let came = if answer.status == 200 { origin.last().target } else { answer.status.to_string() };
        assert_eq!(came, received, "{sent} over HTTP/1.1");
        let answer = client().http2().get(edge.url(sent)).send().await;
        let came = if answer.status == 200 { origin.last().target } else { answer.status.as_u16().to_string() };
        assert_eq!(came, received, "{sent} over HTTP/2");
    }
}

#[tokio::test]
async fn a_path_cannot_be_spelt_around_its_route() {
    let origin = origin().run().await;
    let routes = "
  - { name: private, match: { path: '/private/*' }, answer: { status: 403 } }
  - { name: all, match: { path: '/*' }, upstream: origin }
";
    let edge = routing(routes, &origin).await;
    for path in [
        "/private/x",
        "/%70rivate/x",
        "//private/x",
        "/./private/x",
        "/open/../private/x",
        "/open/%2e%2e/private/x",
        "/private",
    ] {
        assert_eq!(client().get(edge.url(path)).send().await.status, 403, "{path}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn an_encoded_slash_passes_as_it_is_where_it_is_allowed() {
    let origin = origin().run().await;
    let edge = with("path: { encoded_slash: keep }", &origin).await;
    assert_eq!(client().get(edge.url("/files/a%2fb%2F..")).send().await.status, 200);
    assert_eq!(origin.last().target, "/files/a%2Fb%2F..");
}

#[tokio::test]
async fn a_length_beside_chunks_never_reaches_an_origin() {
    let origin = raw_origin("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    let edge = gateway().config(ROUTES).set("origin", origin.address()).run().await;
    for fields in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 300",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ] {
        let mut connection = raw(edge.address()).await;
        // What would be a second request to whoever believed the length.
        let smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        let body = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
        connection.send(format!("POST /one HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n{body}")).await;
        let answer = connection.read_response().await;
        assert!(answer.status == 200 || answer.status == 400, "{fields}: {answer:?}");
        connection.expect_end().await;
    }
    for received in origin.received() {
        let text = String::from_utf8(received).unwrap().to_ascii_lowercase();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("post /one "), "{head}");
        assert!(!head.contains("content-length") && head.contains("transfer-encoding: chunked"), "{head}");
        assert!(!body.starts_with("get"), "{body}");
    }
}

#[tokio::test]
async fn the_host_is_said_once_and_is_the_targets() {
    let origin = origin().run().await;
    let edge = with("", &origin).await;
    let mut connection = raw(edge.address()).await;
    connection.send("GET http://real.example/path HTTP/1.1\r\nhost: other.example\r\n\r\n").await;
    assert_eq!(connection.read_response().await.status, 200);
    assert_eq!((lines(&origin, "host"), origin.last().target), (vec!["real.example".to_owned()], "/path".to_owned()));
    for request in ["GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(raw_refusal(&edge, request).await.0, 400);
    }
    // HTTP/2 says it in a field of its own.
    let client = client().http2().to(edge.address());
    assert_eq!(client.get("http://second.example/").send().await.status, 200);
    assert_eq!(lines(&origin, "host"), ["second.example"]);
}

// What passes and what does not.

#[tokio::test]
async fn fields_of_one_connection_end_there_in_both_directions() {
    let reply = Reply::text("x").header("connection", "x-mine").header("x-mine", "1").header("keep-alive", "timeout=9");
    let reply = reply.header("proxy-authenticate", "Basic").header("x-kept", "1");
    let origin = origin().on("/*", reply).run().await;
    let edge = with("", &origin).await;
    let request = client().get(edge.url("/")).header("connection", "x-private, x-other").header("x-private", "1");
    let request = request.header("x-other", "1").header("keep-alive", "timeout=5").header("proxy-connection", "close");
    let answer =
        request.header("proxy-authorization", "Basic eA==").header("te", "deflate").header("x-kept", "1").send().await;
    for name in ["x-mine", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.header(name), None, "{name} came to the client");
    }
    for name in ["x-private", "x-other", "keep-alive", "proxy-connection", "proxy-authorization", "te", "connection"] {
        assert_eq!(lines(&origin, name), Vec::<String>::new(), "{name} came to the origin");
    }
    assert_eq!((answer.header("x-kept"), lines(&origin, "x-kept")), (Some("1"), vec!["1".to_owned()]));
}

#[tokio::test]
async fn a_client_cannot_have_what_protects_an_origin_removed() {
    let origin = origin().run().await;
    let edge = with("", &origin).await;
    let request = client().post(edge.url("/"), "body").header("connection", "authorization, x-request-id, cookie");
    assert_eq!(request.header("authorization", "Basic eA==").send().await.status, 200);
    assert_eq!((lines(&origin, "x-request-id").len(), lines(&origin, "x-forwarded-for").len()), (1, 1));
    assert_eq!(origin.last().body, "body");
    // Nobody names these but to harm.
    for hostile in ["host", "x-forwarded-for", "a,b,c,d,e,f,g,h,i,j,k", "\"x-forwarded-for\""] {
        let answer = client().get(edge.url("/")).header("connection", hostile).send().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["type"]), (400, &"urn:sluice:problem:bad-request".into()));
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn the_cookies_of_an_http2_client_become_one_field() {
    let origin = origin().run().await;
    let edge = with("", &origin).await;
    // RFC 9113 8.2.3: crumbs are joined before they leave HTTP/2.
    let request = client().http2().get(edge.url("/")).header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(request.header("cookie", "c=3").send().await.status, 200);
    assert_eq!(lines(&origin, "cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn large_headers_and_many_cookies_pass_in_both_directions() {
    // The test's own HTTP/2 client takes no more than 16 KiB.
    for (client, size) in [(client(), 30_000), (client().http2(), 5_000)] {
        let mut reply = Reply::text("x").header("x-large", &"r".repeat(size));
        for n in 0..60 {
            reply = reply.header("set-cookie", &format!("cookie{n}={}; Path=/", "v".repeat(50)));
        }
        let origin = origin().on("/*", reply).run().await;
        let edge = with("", &origin).await;
        let cookies: Vec<String> = (0..60).map(|n| format!("cookie{n}={}", "v".repeat(100))).collect();
        let request =
            client.get(edge.url("/")).header("x-large", "q".repeat(20_000)).header("cookie", cookies.join("; "));
        let answer = request.send().await;
        assert_eq!(answer.header("x-large").map(str::len), Some(size));
        let set: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
        assert_eq!((set.len(), set[59].to_str().unwrap().starts_with("cookie59=")), (60, true));
        assert_eq!(lines(&origin, "cookie"), [cookies.join("; ")]);
        assert_eq!(lines(&origin, "x-large")[0].len(), 20_000);
    }
}

#[tokio::test]
async fn headers_beyond_the_bound_are_refused_and_said_so() {
    let origin = origin().run().await;
    let edge = with("limits: { header_size: 4KiB, header_fields: 20 }", &origin).await;
    let large = client().get(edge.url("/")).header("x-large", "q".repeat(5_000)).send().await;
    assert_eq!(large.status, 431);
    for client in [client(), client().http2()] {
        let many = (0..30).fold(client.get(edge.url("/")), |request, n| request.header(&format!("x-{n}"), "1"));
        assert_eq!(many.send().await.status, 431);
    }
    assert_eq!(origin.count(), 0);
}

// What routes change.

#[tokio::test]
async fn a_rewrite_changes_path_host_and_fields_and_nothing_else() {
    let origin = origin().on("/*", Reply::echo().header("server", "secret").header("x-old", "1")).run().await;
    let routes = "
  - name: versioned
    match: { path: '/v1/*' }
    rewrite:
      path: '/v2/*'
      host: inner.example:8080
      request_headers: { set: { x-set: new }, add: { x-add: more }, remove: [x-gone] }
      response_headers: { set: { x-old: '2' }, remove: [server] }
    upstream: origin
  - name: captured
    match: { path: '/users/{id}/orders/{order}' }
    rewrite: { path: '/orders/{order}/of/{id}' }
    upstream: origin
";
    let edge = routing(routes, &origin).await;
    let request = client().get(edge.url("/v1/orders/7?x=1")).header("x-set", "old").header("x-add", "one");
    let answer = request.header("x-gone", "1").header("x-stays", "1").send().await;
    assert_eq!((answer.header("server"), answer.header("x-old")), (None, Some("2")));
    let told = answer.json();
    assert_eq!((&told["target"], &told["authority"]), (&"/v2/orders/7?x=1".into(), &"inner.example:8080".into()));
    assert_eq!(
        (lines(&origin, "x-set"), lines(&origin, "x-add")),
        (vec!["new".into()], vec!["one".into(), "more".into()])
    );
    assert_eq!((lines(&origin, "x-gone").len(), lines(&origin, "x-stays").len()), (0, 1));
    assert_eq!(lines(&origin, "x-forwarded-host"), ["127.0.0.1"]);
    // A capture is put in as it was matched: it cannot become two segments.
    let captured = client().get(edge.url("/users/a%20b/orders/7")).send().await;
    assert_eq!(captured.json()["target"], "/orders/7/of/a%20b");
}

#[tokio::test]
async fn redirects_and_direct_answers_need_no_origin() {
    let origin = origin().run().await;
    let routes = "
  - { name: moved, match: { path: '/old/*' }, redirect: { to: 'https://new.example/*', status: 308 } }
  - { name: here, match: { path: /robots.txt }, answer: { body: \"User-agent: *\\n\", headers: { x-one: '1' } } }
  - { name: gone, match: { path: /gone }, answer: { status: 410 } }
  - { name: rest, match: { path: '/*' }, upstream: origin }
";
    let edge = routing(routes, &origin).await;
    for client in [client(), client().http2()] {
        let moved = client.post(edge.url("/old/place?x=1"), "body").send().await;
        assert_eq!((moved.status.as_u16(), moved.header("location")), (308, Some("https://new.example/place?x=1")));
        let here = client.get(edge.url("/robots.txt")).send().await;
        assert_eq!((here.text(), here.header("x-one")), ("User-agent: *\n", Some("1")));
        assert_eq!(here.header("content-type"), Some("text/plain; charset=utf-8"));
        let head = client.request("HEAD", edge.url("/robots.txt")).send().await;
        assert_eq!((head.header("content-length"), head.body.len()), (Some("14"), 0));
        assert_eq!(client.get(edge.url("/gone")).send().await.status, 410);
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn browsers_are_told_what_another_origins_pages_may_do() {
    let reply = Reply::text("x").header("access-control-allow-origin", "*").header("vary", "accept");
    let origin = origin().on("/*", reply).run().await;
    let routes = "
  - name: api
    match: { path: '/*' }
    cors: { origins: ['https://app.example'], methods: [GET, PUT], headers: [authorization], credentials: true, max_age: 5m }
    upstream: origin
";
    let edge = routing(routes, &origin).await;
    let preflight = |from: &str| {
        let request = client().request("OPTIONS", edge.url("/orders")).header("origin", from);
        request.header("access-control-request-method", "PUT").header("access-control-request-headers", "authorization")
    };
    let allowed = preflight("https://app.example").send().await;
    assert!(allowed.status.is_success(), "{allowed:?}");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
    assert!(allowed.header("access-control-allow-methods").is_some_and(|methods| methods.contains("PUT")));
    assert_eq!(allowed.header("access-control-max-age"), Some("300"));
    assert_eq!(preflight("https://evil.example").send().await.header("access-control-allow-origin"), None);
    assert_eq!(origin.count(), 0, "a preflight reached the origin");

    // On the answer itself the gateway's word replaces the origin's.
    let actual = client().get(edge.url("/orders")).header("origin", "https://app.example").send().await;
    let told: Vec<_> = actual.headers.get_all("access-control-allow-origin").iter().collect();
    assert_eq!(told, ["https://app.example"]);
    let vary: Vec<_> =
        actual.headers.get_all("vary").iter().map(|value| value.to_str().unwrap().to_lowercase()).collect();
    assert!(vary.join(",").contains("origin") && vary.join(",").contains("accept"), "{vary:?}");
    let foreign = client().get(edge.url("/orders")).header("origin", "https://evil.example").send().await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn an_address_that_may_not_is_refused_before_anything_is_asked_of_it() {
    let origin = origin().run().await;
    let routes = "
  - { name: inner, match: { path: '/inner/*' }, addresses: { allow: [10.0.0.0/8] }, upstream: origin }
  - { name: rest, match: { path: '/*' }, addresses: { deny: [192.0.2.0/24] }, upstream: origin }
";
    let edge = routing(routes, &origin).await;
    let denied = client().get(edge.url("/inner/x")).send().await;
    assert_eq!((denied.status.as_u16(), &denied.json()["type"]), (403, &"urn:sluice:problem:address-denied".into()));
    assert_eq!(client().get(edge.url("/x")).send().await.status, 200);
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn interim_answers_and_early_hints_do_not_disturb_the_final_one() {
    let origin =
        raw_origin("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
    let edge = gateway().config(ROUTES).set("origin", origin.address()).run().await;
    for client in [client(), client().http2()] {
        let answer = tokio::time::timeout(Duration::from_secs(5), client.get(edge.url("/")).try_send()).await;
        let answer = answer.unwrap().unwrap();
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
    }
}
