//! Counts requests of a tenant or a subject, and turns away what is over its quota.
//!
//! ```yaml
//! plugins:
//!   quota:
//!     component: plugins/quota.wasm
//!     decides: true
//!     grants: { identity: true, clock: true, key_value: { entries: 100000, bytes: 32MiB } }
//!     config:
//!       claim: plan                       # the claim that `limits` is looked up by; `plan` if absent
//!       quotas:                           # at most 8; a request counts against each
//!         - { name: minute, by: subject, window: 60, limit: 100 }
//!         - { name: day, by: tenant, window: 86400, limit: 10000, limits: { gold: 1000000 } }
//!       nameless: refuse                  # or share: what becomes of a request without a subject, or tenant, to count by
//! ```
//!
//! A window begins at a multiple of its seconds since 1970. What is over a quota is answered with 429, `retry-after` and a problem
//! document; it counts against no quota. Answers of the plugin and responses of the upstream bear `ratelimit-policy` and `ratelimit`
//! (draft-ietf-httpapi-ratelimit-headers).
//!
//! The counts are in the gateway's memory: each gateway counts for itself, and begins anew when it starts. Where a tenant's
//! space is full a new subject cannot be counted, and is turned away with 503 until a window ends: give the store one entry for each
//! quota and subject that a window may see.

mod policy;

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha256};
use sluice_plugin_sdk::key_value::{self, StoreFault};
use sluice_plugin_sdk::{
    Action, Answer, Failed, Outcome, Refusal, Request, RequestHeaders, Response, ResponseHeaders, SentRequest, clock,
    config, export, identity,
};

use policy::{By, Policy, State};

/// Names itself in place of a subject or tenant where `nameless: share`.
const NAMELESS: &str = "nameless";

struct Quota;

impl RequestHeaders for Quota {
    fn on_request_headers(_: Request) -> Outcome {
        let policies = policy::read(config::get)?;
        let now = clock::since_epoch().as_secs();
        let mut counted: Vec<String> = Vec::new();
        let plan = plan();
        let mut states = Vec::new();
        for policy in policies {
            let Some(key) = key(&policy, now)? else {
                give_back(&counted);
                return Ok(Refusal::new().detail("this request cannot be counted without a verified identity").into());
            };
            // A second more than the window: the key of a window that is over is never asked for again.
            let expires = Duration::from_secs(policy.left(now) + 1);
            let count = match key_value::increment(&key, 1, Some(expires)) {
                Ok(count) => count,
                Err(StoreFault::Full) => {
                    give_back(&counted);
                    return Ok(Answer::new(503).header("retry-after", policy.left(now).to_string()).into());
                }
                Err(fault) => return Err(fault.into()),
            };
            counted.push(key);
            let limit = limit(states.len(), plan.as_deref())?;
            let state = State::new(policy, limit, count, now);
            let is_over = state.is_over();
            states.push(state);
            if is_over {
                give_back(&counted);
                return Ok(over(&states));
            }
        }
        Ok(Action::Continue)
    }
}

impl ResponseHeaders for Quota {
    /// Reads the counts again: this may be another instance than the one that counted.
    fn on_response_headers(_: SentRequest, response: Response) -> Outcome {
        let now = clock::since_epoch().as_secs();
        let plan = plan();
        let mut states = Vec::new();
        for policy in policy::read(config::get)? {
            let Some(key) = key(&policy, now)? else { return Ok(Action::Continue) };
            let entry = key_value::get(&key)?;
            let count = entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()).unwrap_or(0);
            let limit = limit(states.len(), plan.as_deref())?;
            states.push(State::new(policy, limit, count, now));
        }
        for (name, value) in policy::fields(&states) {
            response.set_header(name, &value)?;
        }
        Ok(Action::Continue)
    }
}

/// What is turned away does not count, neither here nor against the quotas that had room.
fn give_back(counted: &[String]) {
    for key in counted {
        // One that has expired meanwhile begins at -1 for the rest of nothing: it is never asked for again.
        let _ = key_value::increment(key, -1, Some(Duration::from_secs(1)));
    }
}

fn over(states: &[State]) -> Action {
    let wait = states.last().map_or(1, State::left);
    let mut answer = Answer::new(429).header("content-type", "application/problem+json");
    answer = answer.header("retry-after", wait.to_string());
    for (name, value) in policy::fields(states) {
        answer = answer.header(name, value);
    }
    answer.body(policy::problem(states)).into()
}

fn plan() -> Option<String> {
    identity::claim(config::get("claim").as_deref().unwrap_or("plan"))
}

/// How much the quota at this place of the list allows under a plan.
fn limit(index: usize, plan: Option<&str>) -> Result<u64, Failed> {
    let at = format!("/quotas/{index}");
    let of_plan = plan.and_then(|plan| config::get(&format!("{at}/limits/{}", policy::escaped(plan))));
    let text = of_plan.or_else(|| config::get(&format!("{at}/limit"))).ok_or("a quota lacks its limit")?;
    Ok(policy::limit(&text)?)
}

/// The key of a count; none where there is nobody to count by.
fn key(policy: &Policy, now: u64) -> Result<Option<String>, Failed> {
    let shares = match config::get("nameless").as_deref() {
        None | Some("refuse") => false,
        Some("share") => true,
        Some(other) => return Err(format!("nameless: {other:?} is neither `refuse` nor `share`").into()),
    };
    let named = match policy.by {
        By::Tenant => identity::tenant().map(|tenant| (String::new(), tenant)),
        By::Subject => identity::subject().map(|subject| (identity::issuer().unwrap_or_default(), subject)),
    };
    let name = match named {
        // A hash, since a subject may be longer than a key; with a length, so that no two pairs come to one text.
        Some((issuer, name)) => {
            let digest = Sha256::new().chain_update((issuer.len() as u64).to_le_bytes());
            Base64UrlUnpadded::encode_string(&digest.chain_update(issuer).chain_update(name).finalize())
        }
        None if shares => NAMELESS.to_owned(),
        None => return Ok(None),
    };
    Ok(Some(format!("{}/{}/{name}", policy.name, now / policy.window)))
}

export!(Quota: RequestHeaders, ResponseHeaders);
