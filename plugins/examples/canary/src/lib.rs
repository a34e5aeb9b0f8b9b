//! Sends a stable share of users, and whoever asks by a header, to another upstream.
//!
//! ```yaml
//! plugins:
//!   canary:
//!     component: plugins/canary.wasm
//!     grants: { identity: true, connection: true, upstreams: [shop-next], tags: true }
//!     config:
//!       upstream: shop-next
//!       percent: 5             # 0 to 100, in steps of 0.01; 0 if absent
//!       salt: shop-2026-11     # another text draws another share; empty if absent
//!       header: x-canary       # `yes` and `no` in it go before the share; no header counts if absent
//!       unnamed: address       # or stay: what becomes of requests without a token; `address` if absent
//! ```
//!
//! Who is in is a matter of the hash of issuer and subject, so a user stays where he is, on every gateway and after every
//! restart, and whoever is in at 5 percent is in at 10. A request without a verified token is drawn by the client's address: IPv6
//! by its first 64 bits, since the rest changes from hour to hour. Everybody behind one address is then on one side.
//!
//! The access record gets the tag `canary`: `share` or `header` for who is in, `stable` or `stable-header` for who is not.
//!
//! Any client may send the header: name one that your own proxy sets, or one where it does no harm to be let in.

mod share;

use sluice_plugin_sdk::{
    Action, Failed, Outcome, Request, RequestHeaders, config, connection, export, identity, log, routing, tags,
};

struct Canary;

impl RequestHeaders for Canary {
    fn on_request_headers(request: Request) -> Outcome {
        let upstream = config::get("upstream").ok_or("upstream: missing: expected the canary's name")?;
        let share = share::of_percent(config::get("percent").as_deref().unwrap_or("0"))?;
        let by_address = goes_by_address()?;
        let side = match asked_for(&request) {
            Some(true) => "header",
            Some(false) => "stable-header",
            None if is_drawn(share, by_address) => "share",
            None => "stable",
        };
        if matches!(side, "header" | "share") {
            routing::choose_upstream(&upstream)
                .map_err(|_| format!("upstream: {upstream:?} is not granted: add it to grants.upstreams"))?;
        }
        if !tags::set("canary", side) {
            log::debug("no room for the tag `canary`");
        }
        Ok(Action::Continue)
    }
}

fn goes_by_address() -> Result<bool, Failed> {
    match config::get("unnamed").as_deref() {
        None | Some("address") => Ok(true),
        Some("stay") => Ok(false),
        Some(other) => Err(format!("unnamed: {other:?} is neither `address` nor `stay`").into()),
    }
}

/// What the request says itself. Two values that contradict each other say nothing.
fn asked_for(request: &Request) -> Option<bool> {
    let values = request.header_values(&config::get("header")?);
    let (first, others) = values.split_first()?;
    if others.iter().any(|other| other != first) {
        return None;
    }
    match first.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn is_drawn(share: share::Share, by_address: bool) -> bool {
    let salt = config::get("salt").unwrap_or_default();
    if let Some(subject) = identity::subject() {
        let issuer = identity::issuer().unwrap_or_default();
        return share.holds(&[salt.as_bytes(), issuer.as_bytes(), subject.as_bytes()]);
    }
    match connection::client().filter(|_| by_address) {
        Some(address) => share.holds(&[salt.as_bytes(), &share::network(address)]),
        None => false,
    }
}

export!(Canary: RequestHeaders);
