//! What the operator's log says of refusals. In a file of its own: whether a line is written at all is remembered for the
//! whole process, by whichever thread comes first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluice_auth::Algorithm;
use sluice_vocabulary::Reason;

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// What was logged since the last time, a line of JSON each.
    fn take(&self) -> Vec<Value> {
        let text = std::mem::take(&mut *self.0.lock());
        let lines = std::str::from_utf8(&text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap());
        lines.filter(|line: &Value| line["fields"]["reason"].is_string()).collect()
    }
}

#[tokio::test]
async fn a_flood_of_bad_tokens_is_one_line_a_second_that_holds_no_token() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().json().with_writer(move || writer.clone()).with_max_level(tracing::Level::INFO);
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let signer = Signer::new("k", Algorithm::EdDSA);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let wanted = serde_json::from_value(json!({
        "issuer": "corp", "scopes": {"all": ["admin"]}, "claims": [{"pointer": "/sub", "equals": "root"}]
    }));
    let (world, policy) = World::with_keys(&endpoint, &wanted.unwrap()).await;
    let ask = async |sub: &str, scope: &str| {
        let token = signer.sign(&with(with(claims(), "sub", json!(sub)), "scope", json!(scope)));
        world.reason(&policy, &token).await
    };
    lines.take();

    for number in 0..100 {
        assert_eq!(ask(&format!("secret-{number}"), "secret-scope").await, Some(Reason::ScopeMissing));
        assert_eq!(world.reason(&policy, "secret.secret.secret").await, Some(Reason::TokenMalformed));
        let nothing = world.prove(&policy, &HeaderMap::new(), IpAddr::from([192, 0, 2, 9])).await;
        assert_eq!(nothing.unwrap_err().reason, Reason::TokenMissing);
    }
    let told = lines.take();
    let brief =
        |line: &Value| ["route", "issuer", "reason", "left_out"].map(|name| line["fields"][name].to_string()).join(" ");
    let all: Vec<_> = told.iter().map(brief).collect();
    assert_eq!(all, [r#""orders" "corp" "scope-missing" 0"#, r#""orders" "(none)" "token-malformed" 0"#]);

    world.clock.advance(Duration::from_secs(1));
    assert_eq!(ask("secret-user", "secret").await, Some(Reason::ScopeMissing));
    assert_eq!(ask("secret-user", "admin").await, Some(Reason::TokenNotAllowed));
    let told_later = lines.take();
    let all: Vec<_> = told_later.iter().map(brief).collect();
    assert_eq!(all, [r#""orders" "corp" "scope-missing" 99"#, r#""orders" "corp" "token-not-allowed" 0"#]);
    for line in told.iter().chain(&told_later).map(Value::to_string) {
        assert!(!line.contains("secret") && !line.contains("root"), "{line}");
    }
    world.stop().await;
}
