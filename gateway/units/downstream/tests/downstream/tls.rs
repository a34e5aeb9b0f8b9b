//! TLS: the right certificate for each name, handshakes that end, files that change.

use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sluice_testkit::{Authority, Certificate, authority, eventually};
use sluice_vocabulary::unit::State;
use sluice_vocabulary::{Faults, Path};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::world::{Client, Edge, edge_with, parse, status};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

struct World {
    edge: Edge,
    folder: TempDir,
    authority: Authority,
}

fn certificate(folder: &TempDir, certificate: &Certificate, name: &str) -> serde_json::Value {
    let (cert, key) = certificate.write(folder.path(), name);
    json!({"cert": cert, "key": key})
}

/// An edge with certificates for `first.test`, `second.test` and `*.wild.test`.
async fn world(timeouts: serde_json::Value) -> World {
    let (folder, authority) = (TempDir::new().unwrap(), authority());
    let certificates = [("first", "first.test"), ("second", "second.test"), ("wild", "*.wild.test")]
        .map(|(name, host)| certificate(&folder, &authority.leaf(&[host]), name));
    let edge = edge_with(json!({
        "listeners": [{"address": "127.0.0.1:0", "tls": {"certificates": certificates}}],
        "downstream": {"timeouts": timeouts},
    }))
    .await;
    World { edge, folder, authority }
}

async fn shake(edge: &Edge, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let tcp = TcpStream::connect(edge.address()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.map(Client::new)
}

fn shown(client: &Client<TlsStream<TcpStream>>) -> Vec<u8> {
    client.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn handshakes(edge: &Edge, outcome: &str) -> f64 {
    edge.metrics().value("handshakes_total", &[("outcome", outcome)])
}

/// The edge counts a handshake after it has closed it.
async fn counted(edge: &Edge, outcome: &str, times: f64) {
    eventually(format_args!("{outcome} to be counted"), || async {
        (handshakes(edge, outcome) == times).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_gets_its_certificate_and_an_unknown_one_the_first() {
    let World { edge, authority, .. } = world(json!({})).await;
    let config = Arc::new(authority.client_config(&["http/1.1"]));
    for name in ["first.test", "second.test", "a.wild.test", "SECOND.test"] {
        let mut client = shake(&edge, &config, name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        client.send(REQUEST).await;
        assert_eq!(status(&client.response().await.0), 200);
        assert_eq!(edge.app.next().await.server_name.unwrap(), name.to_ascii_lowercase());
    }
    for name in ["unknown.test", "a.b.wild.test", "wild.test"] {
        let error = shake(&edge, &config, name).await.err().unwrap().to_string();
        assert!(error.contains("first.test"), "the first certificate is shown: {error}");
    }
    assert_eq!(handshakes(&edge, "ok"), 4.0);
    counted(&edge, "client-alert", 3.0).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_resumption_work() {
    let World { edge, authority, .. } = world(json!({})).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut client = shake(&edge, &config, "first.test").await.unwrap();
            client.send(REQUEST).await;
            assert_eq!(status(&client.response().await.0), 200);
            kinds.push(client.stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds[1], rustls::HandshakeKind::Resumed, "{version:?}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_drags_or_is_none_is_closed_and_counted() {
    let World { edge, .. } = world(json!({"handshake": "200ms"})).await;
    let mut silent = edge.connect().await;
    assert!(silent.closes().await);
    counted(&edge, "timeout", 1.0).await;
    edge.exchange(REQUEST).await;
    counted(&edge, "not-tls", 1.0).await;
    assert_eq!(edge.app.so_far().await, []);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificates_are_read_again_and_bad_ones_leave_the_old() {
    let World { edge, folder, authority } = world(json!({})).await;
    let config = Arc::new(authority.client_config(&[]));
    let before = shown(&shake(&edge, &config, "first.test").await.unwrap());
    authority.leaf(&["first.test"]).write(folder.path(), "first");
    let after = eventually("the new certificate", || async {
        let now = shown(&shake(&edge, &config, "first.test").await.unwrap());
        (now != before).then_some(now)
    })
    .await;
    std::fs::write(folder.path().join("first.key"), "no key").unwrap();
    let mut health = edge.handle.health().watch();
    let state = health.wait_for(|state| matches!(state, State::Degraded(_))).await.unwrap().clone();
    assert!(format!("{state:?}").contains("certificates"), "{state:?}");
    assert_eq!(shown(&shake(&edge, &config, "first.test").await.unwrap()), after);
    assert_eq!(edge.metrics().value("certificate_reloads_total", &[("outcome", "failed")]), 1.0);
    authority.leaf(&["first.test"]).write(folder.path(), "first");
    health.wait_for(|state| *state == State::Ready).await.unwrap();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_must_show_a_certificate_where_an_authority_is_named() {
    let (folder, authority) = (TempDir::new().unwrap(), authority());
    let server = certificate(&folder, &authority.leaf(&["first.test"]), "first");
    let clients = authority.write(folder.path(), "clients");
    let edge = edge_with(json!({
        "listeners": [{"address": "127.0.0.1:0", "tls": {"certificates": [server], "client_ca": clients}}],
    }))
    .await;
    let leaf = authority.leaf(&["me"]);
    let known = Arc::new(authority.client_config_as(&leaf, &[]));
    let mut client = shake(&edge, &known, "first.test").await.unwrap();
    client.send(REQUEST).await;
    assert_eq!(status(&client.response().await.0), 200);
    assert_eq!(edge.app.next().await.certificate, Some(sha256(&leaf)));
    // With TLS 1.3 the client learns of it when it first reads.
    let mut nobody = shake(&edge, &Arc::new(authority.client_config(&[])), "first.test").await.unwrap();
    nobody.send(REQUEST).await;
    assert_eq!(nobody.rest().await, "");
    counted(&edge, "client-certificate", 1.0).await;
    edge.stop().await;
}

fn sha256(certificate: &Certificate) -> [u8; 32] {
    let der = CertificateDer::from_pem_slice(certificate.chain_pem().as_bytes()).unwrap();
    Sha256::digest(der).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_optional_is_told_of_where_it_is_good_and_refused_where_it_is_not() {
    let (folder, servers, clients) = (TempDir::new().unwrap(), authority(), authority());
    let server = certificate(&folder, &servers.leaf(&["first.test"]), "first");
    let ca = clients.write(folder.path(), "clients");
    let edge = edge_with(json!({"listeners": [{
        "address": "127.0.0.1:0", "tls": {"certificates": [server], "client_ca": ca, "client_auth": "optional"},
    }]}))
    .await;
    let leaf = clients.leaf(&["me"]);
    let as_client = |leaf: &Certificate| Arc::new(servers.client_config_as(leaf, &[]));
    // The second time by resumption, which is not to lose who the client is.
    let (known, nobody) = (as_client(&leaf), Arc::new(servers.client_config(&[])));
    for (config, expected) in
        [(&known, Some(sha256(&leaf))), (&nobody, None), (&known, Some(sha256(&leaf))), (&nobody, None)]
    {
        let mut client = shake(&edge, config, "first.test").await.unwrap();
        client.send(REQUEST).await;
        assert_eq!(status(&client.response().await.0), 200);
        assert_eq!(edge.app.next().await.certificate, expected);
    }
    for stranger in [servers.leaf(&["me"]), clients.expired_leaf(&["me"])] {
        let mut client = shake(&edge, &as_client(&stranger), "first.test").await.unwrap();
        client.send(REQUEST).await;
        assert_eq!(client.rest().await, "");
    }
    assert_eq!(edge.app.so_far().await, []);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_resumed_once_clients_must_show_something_else() {
    let (folder, servers, first, second) = (TempDir::new().unwrap(), authority(), authority(), authority());
    let server = certificate(&folder, &servers.leaf(&["first.test"]), "first");
    let (first_ca, second_ca) = (first.write(folder.path(), "one"), second.write(folder.path(), "two"));
    let config = |tls: serde_json::Value| {
        json!({
            "listeners": [{"address": "127.0.0.1:0", "tls": tls}], "downstream": {"workers": 1},
        })
    };
    let open = json!({"certificates": [server]});
    let edge = edge_with(config(open.clone())).await;
    let nobody = Arc::new(servers.client_config(&[]));
    let known = Arc::new(servers.client_config_as(&first.leaf(&["me"]), &[]));
    let ask = async |client: &Arc<ClientConfig>| {
        let mut client = shake(&edge, client, "first.test").await.ok()?;
        // Its end tells an answer from a refusal: with TLS 1.3 that comes only after the handshake.
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let kind = client.stream.get_ref().1.handshake_kind();
        client.rest().await.starts_with("HTTP/1.1 200").then_some(kind?)
    };
    assert_eq!(ask(&nobody).await, Some(HandshakeKind::Full));
    assert_eq!(ask(&nobody).await, Some(HandshakeKind::Resumed));
    // The same terms: sessions go on.
    edge.handle.apply(&parse(config(open))).unwrap();
    assert_eq!(ask(&nobody).await, Some(HandshakeKind::Resumed));

    edge.handle.apply(&parse(config(json!({"certificates": [server], "client_ca": first_ca})))).unwrap();
    assert_eq!(ask(&nobody).await, None, "a ticket from before is no certificate");
    assert_eq!(ask(&known).await, Some(HandshakeKind::Full));
    assert_eq!(ask(&known).await, Some(HandshakeKind::Resumed));
    edge.handle.apply(&parse(config(json!({"certificates": [server], "client_ca": second_ca})))).unwrap();
    assert_eq!(ask(&known).await, None, "nor is a certificate of an authority that no longer counts");
    edge.stop().await;
}

#[test]
fn files_that_cannot_be_used_are_faults_and_dates_are_warnings() {
    let (folder, authority) = (TempDir::new().unwrap(), authority());
    let good = certificate(&folder, &authority.leaf(&["a.test"]), "good");
    let other = certificate(&folder, &authority.leaf(&["b.test"]), "other");
    let old = certificate(&folder, &authority.expired_leaf(&["c.test"]), "old");
    let config = parse(json!({"listeners": [{"address": "127.0.0.1:0", "tls": {
        "certificates": [
            good,
            {"cert": good["cert"], "key": other["key"]},
            {"cert": "/nowhere.crt", "key": good["key"]},
            {"cert": good["key"], "key": good["key"]},
            old,
        ],
        "client_ca": good["key"],
    }}]}));
    let mut faults = Faults::new();
    config.check_files(&Path::root(), 1_700_000_000, &mut faults);
    let told: Vec<String> = faults.iter().map(|fault| format!("{:?} {fault}", fault.severity)).collect();
    let expected = [
        ("Error listeners[0].tls.certificates[1]: ", "cannot be used with"),
        ("Error listeners[0].tls.certificates[2]: ", "/nowhere.crt"),
        ("Error listeners[0].tls.certificates[3]: ", "holds no certificate"),
        ("Warning listeners[0].tls.certificates[4]: ", "expired"),
        ("Error listeners[0].tls.client_ca: ", "holds no certificate"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, (start, part)) in told.iter().zip(expected) {
        assert!(told.starts_with(start) && told.contains(part), "{told}");
    }
}
