//! An issuer that does not do its part costs its own tokens an honest 503 in bounded time, and nothing else; when it comes
//! to its senses, so do its tokens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluice_testkit::{Gateway, Issuer, Jwks, Origin, client, eventually, gateway, issuer, origin};

const CONFIG: &str = "
auth: { signature_checks_per_address: null }
issuers:
  corp:
    issuer: '@corp@'
    audiences: [edge]
    jwks: { url: '@jwks@', refresh: 1s, timeout: 1s, wait: 500ms, demand_every: 1s, demand_burst: 4 }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: closed, match: { path: '/closed' }, auth: { issuer: corp }, upstream: origin }
  - { name: open, match: { path: '/*' }, upstream: origin }
";

async fn before(origin: &Origin, corp: &Issuer) -> Gateway {
    gateway()
        .config(CONFIG)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await
}

/// What each misbehaviour of the endpoint is counted as.
fn misdeeds() -> Vec<(&'static str, Jwks, &'static str)> {
    vec![
        ("hangs", Jwks::Hang, "timeout"),
        ("answers 500", Jwks::Status(500), "status"),
        ("redirects", Jwks::Status(302), "status"),
        ("is not JSON", Jwks::Lie("<html>nothing here</html>".to_owned()), "malformed"),
        ("is of wrong types", Jwks::Lie("{\"keys\": \"none\"}".to_owned()), "malformed"),
        ("is a number", Jwks::Lie("42".to_owned()), "malformed"),
        ("is empty", Jwks::Lie(String::new()), "malformed"),
        ("sends 100 MB", Jwks::Huge(100 << 20), "too-large"),
        ("resets", Jwks::Reset, ""),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_an_issuer_that_cannot_be_heard_get_503_in_bounded_time_and_everybody_else_is_served() {
    for (name, jwks, outcome) in misdeeds() {
        let (origin, corp) = (origin().run().await, issuer().run().await);
        corp.serve(&jwks);
        let edge = before(&origin, &corp).await;
        let memory = edge.resident_bytes();
        let token = corp.token().sign();
        let began = Instant::now();
        let asking: Vec<_> =
            (0..16).map(|_| tokio::spawn(client().get(edge.url("/closed")).bearer(&token).send())).collect();
        assert_eq!(client().get(edge.url("/open")).send().await.status, 200, "{name}");
        for answer in asking {
            let answer = answer.await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["type"]),
                (503, &"urn:sluice:problem:keys-unavailable".into()),
                "{name}"
            );
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{name}: the answers took {:?}", began.elapsed());
        assert_eq!(origin.count(), 1, "{name}");
        assert!(corp.jwks_requests() < 12, "{name}: {} fetches for 16 requests", corp.jwks_requests());
        if !outcome.is_empty() {
            edge.metrics_when(&format!("what {name} to be counted as {outcome}"), |metrics| {
                metrics.value("sluice_auth_jwks_fetches_total", &[("issuer", "corp"), ("outcome", outcome)]) >= 1.0
            })
            .await;
        }
        let grown = edge.resident_bytes().saturating_sub(memory);
        assert!(grown < 24 << 20, "{name}: {grown} bytes of memory");
        let ready = client().get(edge.admin_url("/readyz")).send().await.json();
        let auth = ready["units"].as_array().unwrap().iter().find(|unit| unit["unit"] == "auth").unwrap();
        assert_eq!((&ready["ready"], &auth["state"]), (&true.into(), &"degraded".into()), "{name}: {ready:#}");
        assert!(auth["reason"].as_str().unwrap().contains("corp"), "{name}: {auth}");

        corp.serve(&Jwks::Honest);
        eventually(format!("tokens to be good again after the endpoint that {name}"), async || {
            let answer = client().get(edge.url("/closed")).bearer(&token).send().await;
            (answer.status == 200).then_some(())
        })
        .await;
        edge.stop().await;
    }
}

#[tokio::test]
async fn keys_once_heard_stay_good_while_their_issuer_misbehaves() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = before(&origin, &corp).await;
    let answer = client().get(edge.url("/closed")).bearer(&corp.token().sign()).send().await;
    assert_eq!(answer.status, 200);
    for (name, jwks, _) in misdeeds() {
        corp.serve(&jwks);
        let failures = |metrics: &sluice_testkit::Metrics| {
            let all = metrics.value("sluice_auth_jwks_fetches_total", &[("issuer", "corp")]);
            all - metrics.value("sluice_auth_jwks_fetches_total", &[("issuer", "corp"), ("outcome", "ok")])
        };
        let before = failures(&edge.metrics().await);
        // A token that nobody has seen, so that the keys are really needed.
        let token = corp.token().subject(name).sign();
        assert_eq!(client().get(edge.url("/closed")).bearer(&token).send().await.status, 200, "{name}");
        let unknown = corp.token().kid("made-up").sign();
        let refused = client().get(edge.url("/closed")).bearer(&unknown).send().await;
        assert!(matches!(refused.status.as_u16(), 401 | 503), "{name}: {}", refused.text());
        edge.metrics_when(&format!("a fetch that {name} to fail"), |metrics| failures(metrics) > before).await;
        corp.serve(&Jwks::Honest);
        let whole = async || {
            let issuers = client().get(edge.admin_url("/issuers")).send().await.json();
            (issuers["issuers"]["corp"]["failures_in_a_row"] == 0).then_some(())
        };
        eventually(format!("the issuer to be heard again after it {name}"), whole).await;
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_loses_no_valid_token() {
    let (origin, corp) = (origin().run().await, Arc::new(issuer().run().await));
    let edge = before(&origin, &corp).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let askers: Vec<_> = (0..6)
        .map(|asker: usize| {
            let (stop, served, corp, url) =
                (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&corp), edge.url("/closed"));
            tokio::spawn(async move {
                let client = client();
                let connection = client.connect(&url).await.unwrap();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Signed with whatever keys the issuer has now, new ones the moment after a rotation.
                    let token = corp.token().subject(&format!("{asker}-{round}")).sign();
                    let answer = connection.send(client.get(&url).bearer(&token)).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    served.fetch_add(1, Ordering::Relaxed);
                    round += 1;
                }
            })
        })
        .collect();
    for _ in 0..4 {
        let reached = served.load(Ordering::Relaxed) + 60;
        eventually("60 more requests", async || (served.load(Ordering::Relaxed) >= reached).then_some(())).await;
        corp.rotate_with_overlap();
        // Unknown keys cause a fetch; the budget for that refills meanwhile.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await.expect("an asker whose every token was accepted");
    }
    edge.stop().await;
}
