//! Sends a request to the upstream that a table names for its tenant and plan.
//!
//! ```yaml
//! plugins:
//!   choose-upstream:
//!     component: plugins/choose_upstream.wasm
//!     grants: { identity: true, upstreams: [fast, slow, acme-own] }
//!     config:
//!       claim: /billing/plan       # the claim that holds the plan: a name or a JSON Pointer; `plan` if absent
//!       table:                     # tenant, then plan; `*` is every other one
//!         acme: { gold: acme-own, "*": fast }
//!         "*": { gold: fast, "*": slow }
//!       unlisted: stay             # or refuse
//! ```
//!
//! The most specific line counts: tenant and plan, then the tenant's `*`, then the plan under `*`, then `*` under `*`. What the
//! table does not list goes where the route sends it, or is refused with 403 where `unlisted` says so: write
//! `decides: true` beside it then. Every upstream of the table must be granted; a choice that was not fails the request.
//!
//! Only a verified token has a plan. A request without one is looked up under the plan `*`, never under what it says itself.

mod table;

use sluice_plugin_sdk::{Action, Failed, Outcome, Refusal, Request, RequestHeaders, config, export, identity, routing};

struct ChooseUpstream;

impl RequestHeaders for ChooseUpstream {
    fn on_request_headers(_: Request) -> Outcome {
        // Read first: a word that is misspelt must not wait for the first stranger to be found out.
        let refuses = refuses_unlisted()?;
        let tenant = identity::tenant();
        let claim = config::get("claim");
        let plan = identity::claim(claim.as_deref().unwrap_or("plan"));
        let line = table::lines(tenant.as_deref(), plan.as_deref()).find_map(|line| config::get(&line));
        match line {
            Some(upstream) => {
                routing::choose_upstream(&upstream)
                    .map_err(|_| format!("the table names the upstream {upstream:?}: add it to grants.upstreams"))?;
                Ok(Action::Continue)
            }
            None if refuses => Ok(Refusal::new()
                .detail("there is no service for this plan")
                .reason(format!("the table lists neither tenant {tenant:?} with plan {plan:?} nor anything wider"))
                .into()),
            None => Ok(Action::Continue),
        }
    }
}

fn refuses_unlisted() -> Result<bool, Failed> {
    match config::get("unlisted").as_deref() {
        None | Some("stay") => Ok(false),
        Some("refuse") => Ok(true),
        Some(other) => Err(format!("unlisted: {other:?} is neither `stay` nor `refuse`").into()),
    }
}

export!(ChooseUpstream: RequestHeaders);
