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
    Identity::new(issuer.clone(), claims.into(), 1_800_000_600)
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// The median, over many batches so short that few are interrupted, in nanoseconds for one item. The items are so many that
/// neither they nor their part of the list stay in the processor's nearer caches.
fn cost<T>(items: &[T], mut look: impl FnMut(&T) -> bool) -> f64 {
    let mut batches = Vec::new();
    for batch in (0..10).flat_map(|_| items.chunks(50)) {
        let begin = Instant::now();
        for item in batch {
            black_box(look(black_box(item)));
        }
        batches.push(begin.elapsed().as_nanos() as f64 / batch.len() as f64);
    }
    batches.sort_by(f64::total_cmp);
    batches[batches.len() / 2]
}

const NOW: u64 = 1_800_000_000;

fn main() {
    let issuer = IssuerName::new("corp").expect("a name");
    let strangers: Vec<_> = (0..50_000).map(|i| uuid(1 << 40 | i)).collect();
    let identities: Vec<_> = strangers.iter().take(10_000).map(|jti| identity(&issuer, jti)).collect();
    let hot: Vec<_> = (0..50_000).map(|i| i % 50).collect();
    println!(
        "                 |            bytes           |  ns for a look-up in the list | ns for a token not revoked"
    );
    println!(
        "revoked tokens   | of the list | resident more | of a stranger | of a revoked | claims cached | claims not"
    );
    for count in [0_u64, 1_000, 100_000, 1_000_000] {
        let before = resident();
        let list = Measured::default();
        // In parts, so that what is handed in does not count.
        for from in (0..count).step_by(1000) {
            list.revoke(0, &issuer, (from..(from + 1000).min(count)).map(uuid));
        }
        let more = resident().saturating_sub(before);
        let revoked: Vec<_> = (0..50_000_u64).map(|i| uuid(i.wrapping_mul(7919) % count.max(1))).collect();
        let look = |jti: &String| list.has_token(&issuer, jti, NOW);
        let whole = |identity: &Identity| list.is_revoked(identity, Some("2026-09"), NOW);
        println!(
            "{count:>16} | {:>11} | {more:>13} | {:>13.1} | {:>12.1} | {:>13.1} | {:>10.1}",
            list.bytes(),
            cost(&strangers, look),
            cost(&revoked, look),
            cost(&hot, |index: &usize| whole(&identities[*index])),
            cost(&identities, whole),
        );
    }
}
