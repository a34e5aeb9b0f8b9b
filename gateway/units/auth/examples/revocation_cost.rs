//! What revocations cost: memory of a million, and the look-up on a request's path, at several sizes.
//!
//! `cargo run --release -p sluice-auth --example revocation_cost`

#![allow(clippy::expect_used, reason = "a measurement")]

use std::hint::black_box;
use std::time::Instant;

use serde_json::{Value, json};
use sluice_auth::measure::Measured;
use sluice_vocabulary::{Identity, IssuerName};

/// Something like a UUID, the same at every run.
fn uuid(number: u64) -> String {
    let a = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let b = (number ^ 0x5851_f42d).wrapping_mul(0xd129_0af3_7a3b_c4f5);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

fn identity(issuer: &IssuerName, jti: &str) -> Identity {
    let claims = json!({"iss": "https://id.example.com", "aud": "edge", "sub": "user-1", "exp": 1_800_000_600_u64,
        "nbf": 1_799_999_940_u64, "iat": 1_799_999_940_u64, "scope": "orders:read orders:list", "tenant": "acme", "jti": jti});
    let Value::Object(claims) = claims else { return identity(issuer, jti) };
    let (subject, scopes) = (Some("user-1".into()), Vec::new());
    Identity { issuer: issuer.clone(), subject, scopes, expires_at: 1_800_000_600, claims }
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// The median of many rounds, in nanoseconds for one look-up.
fn cost(list: &Measured, identities: &[Identity]) -> f64 {
    let mut rounds: Vec<f64> = (0..25)
        .map(|_| {
            let begin = Instant::now();
            for identity in identities {
                black_box(list.is_revoked(black_box(identity), Some("2026-09"), 1_800_000_000));
            }
            begin.elapsed().as_nanos() as f64 / identities.len() as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn main() {
    let issuer = IssuerName::new("corp").expect("a name");
    let good: Vec<_> = (0..10_000).map(|i| identity(&issuer, &uuid(1 << 40 | i))).collect();
    println!("entries | bytes of the list | resident bytes more | ns, not revoked | ns, revoked");
    for count in [0_u64, 1_000, 100_000, 1_000_000] {
        let before = resident();
        let list = Measured::default();
        // In parts, so that what is handed in does not count.
        for from in (0..count).step_by(1000) {
            list.revoke(0, &issuer, (from..(from + 1000).min(count)).map(uuid));
        }
        let more = resident().saturating_sub(before);
        let bad: Vec<_> =
            (0..10_000_u64).map(|i| identity(&issuer, &uuid(i.wrapping_mul(7919) % count.max(1)))).collect();
        let (good_ns, bad_ns) = (cost(&list, &good), cost(&list, &bad));
        println!("{count:>9} | {:>11} | {more:>11} | {good_ns:>7.1} | {bad_ns:>7.1}", list.bytes());
    }
    let list = Measured::default();
    for from in (0..1_000_000).step_by(1000) {
        list.revoke(0, &issuer, (from..from + 1000).map(uuid));
    }
    list.revoke(1, &issuer, (0..1000).map(|i| format!("other-{i}")));
    list.revoke(2, &issuer, (0..10).map(|i| format!("key-{i}")));
    println!("a million tokens, 1 000 subjects and 10 keys: {:.1} ns, not revoked", cost(&list, &good));
}
