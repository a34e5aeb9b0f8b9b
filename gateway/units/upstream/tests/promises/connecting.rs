//! TLS toward an upstream: who is trusted, who is shown, and what is never shared.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::{HandshakeKind, ServerConfig};
use sluice_testkit::{Authority, authority, origin};
use sluice_upstream::config::{ClientCertificateConfig, Protocol, TlsConfig};
use sluice_upstream::{Config, UpstreamConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::world::{World, name_of, reason, upstream, world};

fn over_tls(address: SocketAddr, tls: TlsConfig) -> UpstreamConfig {
    upstream([address], |config| config.tls = Some(tls))
}

fn named(name: &str) -> TlsConfig {
    TlsConfig { server_name: Some(name.to_owned()), ..TlsConfig::default() }
}

fn trusting(name: &str, ca: &Path) -> TlsConfig {
    TlsConfig { ca: Some(ca.to_owned()), ..named(name) }
}

/// What an origin saw of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Handshake {
    resumed: bool,
    client: Option<Vec<u8>>,
    requests: usize,
}

/// An origin that notes its handshakes; it keeps connections for more requests, or closes each after one.
async fn watched(config: ServerConfig, keep: bool) -> (SocketAddr, Arc<Mutex<Vec<Handshake>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<Handshake>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let index = {
                    let (_, session) = tls.get_ref();
                    let mut noted = noted.lock();
                    noted.push(Handshake {
                        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                        client: session.peer_certificates().map(|chain| chain[0].to_vec()),
                        requests: 0,
                    });
                    noted.len() - 1
                };
                let mut buffer = [0; 4096];
                while matches!(tls.read(&mut buffer).await, Ok(length) if length > 0) {
                    noted.lock()[index].requests += 1;
                    let connection = if keep { "keep-alive" } else { "close" };
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: {connection}\r\n\r\n");
                    if tls.write_all(answer.as_bytes()).await.is_err() || tls.flush().await.is_err() || !keep {
                        let _ = tls.shutdown().await;
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

fn files(authority: &Authority) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority.write(folder.path(), "ca");
    (folder, ca)
}

async fn get(world: &World, upstream: &str) -> (u16, String) {
    let answer = world.proxy().await.get(&format!("/{upstream}/")).await;
    (answer.status.as_u16(), reason(&answer).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_of_a_trusted_authority_and_for_the_right_name_will_do() {
    let (ours, theirs) = (authority(), authority());
    let origin = origin().tls(&ours.leaf(&["orders.test"])).run().await;
    let (_our_folder, our_ca) = files(&ours);
    let (_their_folder, their_ca) = files(&theirs);
    let dangerous = TlsConfig { dangerous_accept_any_certificate: true, ..named("whatever.test") };
    let address = origin.address();
    let world = world();
    world.apply(&[
        ("good", &over_tls(address, trusting("orders.test", &our_ca))),
        ("other-name", &over_tls(address, trusting("billing.test", &our_ca))),
        ("other-authority", &over_tls(address, trusting("orders.test", &their_ca))),
        ("platform", &over_tls(address, named("orders.test"))),
        ("dangerous", &over_tls(address, dangerous)),
    ]);
    assert_eq!(get(&world, "good").await, (200, "none".into()));
    for refused in ["other-name", "other-authority", "platform"] {
        assert_eq!(get(&world, refused).await, (502, "upstream-tls".into()), "{refused}");
    }
    assert_eq!(get(&world, "dangerous").await, (200, "none".into()));
    assert_eq!(
        origin.requests().iter().map(|seen| seen.server_name.as_deref()).collect::<Vec<_>>(),
        [Some("orders.test"), Some("whatever.test")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_spoken_as_agreed() {
    let ours = authority();
    let (_folder, ca) = files(&ours);
    let leaf = ours.leaf(&["orders.test"]);
    let both = origin().tls(&leaf).run().await;
    let old = origin().tls_config(leaf.server_config(&["http/1.1"], None)).run().await;
    let world = world();
    let speaking = |address, protocol| {
        let mut config = over_tls(address, trusting("orders.test", &ca));
        config.protocol = protocol;
        config
    };
    world.apply(&[
        ("auto", &speaking(both.address(), Protocol::Auto)),
        ("one", &speaking(both.address(), Protocol::Http1)),
        ("two", &speaking(both.address(), Protocol::Http2)),
        ("auto-old", &speaking(old.address(), Protocol::Auto)),
    ]);
    for (name, origin, version) in [
        ("auto", &both, http::Version::HTTP_2),
        ("one", &both, http::Version::HTTP_11),
        ("two", &both, http::Version::HTTP_2),
        ("auto-old", &old, http::Version::HTTP_11),
    ] {
        assert_eq!(get(&world, name).await.0, 200, "{name}");
        assert_eq!(origin.last().version, version, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_where_one_is_demanded() {
    let (ours, clients) = (authority(), authority());
    let (folder, ca) = files(&ours);
    let (cert, key) = clients.leaf(&["gateway"]).write(folder.path(), "client");
    let origin = origin().tls_demanding(&ours.leaf(&["orders.test"]), &clients).run().await;
    let shown =
        TlsConfig { client_certificate: Some(ClientCertificateConfig { cert, key }), ..trusting("orders.test", &ca) };
    let world = world();
    world.apply(&[
        ("shown", &over_tls(origin.address(), shown)),
        ("hidden", &over_tls(origin.address(), trusting("orders.test", &ca))),
    ]);
    assert_eq!(get(&world, "shown").await, (200, "none".into()));
    // With TLS 1.3 the refusal arrives after the client's side of the handshake is done.
    let (status, reason) = get(&world, "hidden").await;
    assert!(status == 502 && ["upstream-tls", "upstream-reset"].contains(&&*reason), "{status} {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_never_shared_between_identities() {
    let (ours, clients) = (authority(), authority());
    let (folder, ca) = files(&ours);
    let (address, seen) = watched(ours.leaf(&["orders.test"]).server_config(&[], Some(&clients)), true).await;
    let identity = |name: &str| {
        let (cert, key) = clients.leaf(&["gateway"]).write(folder.path(), name);
        let client_certificate = Some(ClientCertificateConfig { cert, key });
        over_tls(address, TlsConfig { client_certificate, ..trusting("orders.test", &ca) })
    };
    let world = world();
    world.apply(&[("a", &identity("a")), ("b", &identity("b"))]);
    let proxy = world.proxy().await;
    for path in ["/a/", "/b/", "/a/", "/b/"] {
        assert_eq!(proxy.get(path).await.status, 200);
    }
    let seen = seen.lock().clone();
    assert_eq!(
        seen.iter().map(|handshake| handshake.requests).collect::<Vec<_>>(),
        [2, 2],
        "each reuses its own alone"
    );
    assert_ne!(seen[0].client, seen[1].client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_made_without_verification_is_never_used_by_an_upstream_that_verifies() {
    let stranger = authority();
    let (_folder, ca) = files(&authority());
    let (address, seen) = watched(stranger.leaf(&["orders.test"]).server_config(&[], None), true).await;
    let open = TlsConfig { dangerous_accept_any_certificate: true, ..named("orders.test") };
    let world = world();
    world.apply(&[
        ("open", &over_tls(address, open)),
        ("platform", &over_tls(address, named("orders.test"))),
        ("own", &over_tls(address, trusting("orders.test", &ca))),
    ]);
    let proxy = world.proxy().await;
    assert_eq!(proxy.get("/open/").await.status, 200);
    // Neither from the pool, nor by resuming its session, which the platform's store would hold.
    assert_eq!(reason(&proxy.get("/platform/").await), "upstream-tls");
    assert_eq!(reason(&proxy.get("/own/").await), "upstream-tls");
    assert_eq!(seen.lock().iter().map(|handshake| handshake.requests).sum::<usize>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_resume_with_the_platforms_authorities_and_are_said_not_to_with_others() {
    let ours = authority();
    let (_folder, ca) = files(&ours);
    let leaf = ours.leaf(&["orders.test"]);
    let (platform, by_platform) = watched(leaf.server_config(&[], None), false).await;
    let (own, by_own) = watched(leaf.server_config(&[], None), false).await;
    let world = world().platform_ca(ca.clone());
    world.apply(&[
        ("platform", &over_tls(platform, named("orders.test"))),
        ("own", &over_tls(own, trusting("orders.test", &ca))),
    ]);
    let proxy = world.proxy().await;
    for path in ["/platform/", "/platform/", "/own/", "/own/"] {
        assert_eq!(proxy.get(path).await.status, 200, "{path}");
    }
    let resumed = |seen: &Mutex<Vec<Handshake>>| seen.lock().iter().map(|one| one.resumed).collect::<Vec<_>>();
    assert_eq!(resumed(&by_platform), [false, true]);
    assert_eq!(resumed(&by_own), [false, false]);
    let told = sluice_vocabulary::ports::Inspect::inspect(&world.handle);
    assert_eq!(told["upstreams"]["platform"]["tls_resumption"], "works");
    assert_eq!(told["upstreams"]["own"]["tls_resumption"], "absent: own authority or client certificate");
}

#[test]
fn files_that_cannot_be_used_are_told_by_their_place_in_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, others) = (authority(), authority());
    let (cert, key) = ours.leaf(&["a"]).write(folder.path(), "a");
    let (_, wrong_key) = others.leaf(&["b"]).write(folder.path(), "b");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    std::fs::write(folder.path().join("garbage.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();

    let tls = |ca: &str, client: Option<(&Path, &Path)>| {
        let client_certificate =
            client.map(|(cert, key)| ClientCertificateConfig { cert: cert.into(), key: key.into() });
        let tls = TlsConfig { client_certificate, ..trusting("a", Path::new(ca)) };
        over_tls(SocketAddr::from(([127, 0, 0, 1], 1)), tls)
    };
    let config: Config = [
        ("absent", tls("nowhere.pem", None)),
        ("empty", tls("empty.pem", None)),
        ("garbage", tls("garbage.pem", None)),
        ("mismatch", tls("a.crt", Some((&cert, &wrong_key)))),
        ("swapped", tls("a.crt", Some((&key, &cert)))),
        ("sound", tls("a.crt", Some((&cert, &key)))),
    ]
    .into_iter()
    .map(|(name, config)| (name_of(name), config))
    .collect();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let metrics = sluice_upstream::Metrics::new(&mut prometheus_client::registry::Registry::default());
    let clock = Arc::new(sluice_vocabulary::clock::SystemClock);
    let (handle, _keeper) = sluice_upstream::new(clock, Arc::new(sluice_vocabulary::clock::SystemRandom), metrics);
    let faults = handle.prepare(&config, folder.path()).unwrap_err();
    let places: Vec<_> = faults.iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(
        places,
        [
            "upstreams.absent.tls.ca",
            "upstreams.empty.tls.ca",
            "upstreams.garbage.tls.ca",
            "upstreams.mismatch.tls.client_certificate.key",
            "upstreams.swapped.tls.client_certificate.cert",
            "upstreams.swapped.tls.client_certificate.key",
        ]
    );
    let secret = std::fs::read_to_string(&key).unwrap();
    let inner = secret.lines().nth(1).unwrap();
    assert!(faults.iter().all(|fault| !fault.to_string().contains(inner)), "no key in a message");
}
