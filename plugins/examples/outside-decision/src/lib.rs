//! Asks an outside service who may pass, and remembers for a while what it said.
//!
//! ```yaml
//! plugins:
//!   outside-decision:
//!     component: plugins/outside_decision.wasm
//!     decides: true
//!     grants: { identity: true, http: ["https://decide.example.com"], key_value: { entries: 100000, bytes: 32MiB } }
//!     config:
//!       url: https://decide.example.com/v1/decide
//!       timeout_ms: 500    # how long to wait for it; 500 if absent
//!       ttl: 60            # seconds for which a decision holds; 60 if absent, 0 to ask each time, at most 3600
//! ```
//!
//! The service is sent a POST with a JSON object: `subject`, `issuer`, `tenant`, `scopes`, `method`, `host`, `path`. By 2xx the
//! request passes, by 401 or 403 it is refused with 403; both are remembered, for this very question and tenant, for
//! `ttl`, so that is how long a permission outlives its withdrawal. By anything else, and where it does not answer, nobody
//! passes (503), and nothing is remembered. Requests without a verified identity are refused unasked.
//!
//! Where a tenant's space is full, decisions are asked for and not remembered.

mod question;

use std::time::Duration;

use sluice_plugin_sdk::outbound::{self, Fault};
use sluice_plugin_sdk::{
    Action, Answer, Failed, Outcome, Refusal, Request, RequestHeaders, config, export, identity, key_value, log,
};

use question::Question;

const ALLOWED: &[u8] = b"allow";
const DENIED: &[u8] = b"deny";

struct OutsideDecision;

impl RequestHeaders for OutsideDecision {
    fn on_request_headers(request: Request) -> Outcome {
        let (Some(subject), Some(issuer)) = (identity::subject(), identity::issuer()) else {
            return Ok(Refusal::new().detail("this request needs a verified identity").into());
        };
        let question = Question {
            subject,
            issuer,
            tenant: identity::tenant(),
            scopes: identity::scopes(),
            method: request.method(),
            host: request.host(),
            path: request.path(),
        };
        let ttl = number("ttl", 60, 0..=3600)?;
        let key = question.key();
        if ttl > 0
            && let Some(entry) = key_value::get(&key)?
        {
            return Ok(if entry.value == ALLOWED { Action::Continue } else { denied() });
        }
        let Some(is_allowed) = ask(&question)? else {
            return Ok(Answer::new(503).header("retry-after", "1").into());
        };
        if ttl > 0 {
            let decision = if is_allowed { ALLOWED } else { DENIED };
            // One for which there is no room is asked for again.
            let _ = key_value::set(&key, decision, Some(Duration::from_secs(ttl)));
        }
        Ok(if is_allowed { Action::Continue } else { denied() })
    }
}

/// What the service says; none where it says nothing that decides.
fn ask(question: &Question) -> Result<Option<bool>, Failed> {
    let url = config::get("url").ok_or("url is missing")?;
    let wait = Duration::from_millis(number("timeout_ms", 500, 1..=30_000)?);
    let asked = outbound::Request::post(url, question.json()).header("content-type", "application/json").timeout(wait);
    match outbound::send(&asked) {
        Ok(answer) if answer.is_success() => Ok(Some(true)),
        Ok(answer) if matches!(answer.status, 401 | 403) => Ok(Some(false)),
        Ok(answer) => {
            log::warn(&format!("the service answered with {}, which decides nothing", answer.status));
            Ok(None)
        }
        // Nobody but the operator can mend these.
        Err(Fault::Invalid) => Err("url is no address that can be asked, or the question is too long".into()),
        Err(Fault::NotGranted) => Err("the origin of url is not granted".into()),
        Err(fault) => {
            log::warn(&format!("the service does not answer: {fault:?}"));
            Ok(None)
        }
    }
}

fn denied() -> Action {
    Refusal::new().detail("this request is not permitted").reason("the outside service denied it").into()
}

fn number(key: &str, otherwise: u64, range: std::ops::RangeInclusive<u64>) -> Result<u64, Failed> {
    let Some(text) = config::get(key) else { return Ok(otherwise) };
    let number = text.parse().ok().filter(|number| range.contains(number));
    Ok(number.ok_or_else(|| format!("{key}: {text:?} is not a number from {} to {}", range.start(), range.end()))?)
}

export!(OutsideDecision: RequestHeaders);
