//! The unit's page of the admin's door, and the ages of keys: what an operator sees.

use serde_json::{Value, json};
use sluice_vocabulary::ports::Inspect;

use crate::algorithm::Alg;
use crate::fetch::Source;
use crate::issuer::Issuer;
use crate::metrics::KeyAges;
use crate::unit::{Core, Handle};

impl Inspect for Handle {
    /// `{"state", "issuers": {name: {…}}, "introspection": {issuer: {…}}, "forward_auth": {route: {…}}, "token_cache": {…}}`. Keys are public; tokens are not here.
    fn inspect(&self) -> Value {
        let world = self.core.world.load();
        let issuers: serde_json::Map<_, _> = world
            .issuers
            .iter()
            .map(|(name, issuer)| (name.as_str().to_owned(), inspect_issuer(&self.core, issuer)))
            .collect();
        json!({
            "state": self.core.health.get(),
            "issuers": issuers,
            "introspection": world.remotes.inspect_introspection(),
            "forward_auth": world.remotes.inspect_forward_auth(),
            "token_cache": { "entries": world.shared.cache.len(), "bytes": world.shared.cache.bytes() },
        })
    }
}

fn inspect_issuer(core: &Core, issuer: &Issuer) -> Value {
    let now = core.clock.now();
    let record = issuer.keyring.record();
    let keys = issuer.keyring.keys();
    let key_list: Vec<_> = keys
        .iter()
        .flat_map(|set| set.keys())
        .map(|key| {
            let algorithms: Vec<_> = key.algorithms().map(Alg::name).collect();
            json!({ "kid": key.kid(), "algorithms": algorithms, "thumbprint": key.thumbprint() })
        })
        .collect();
    let left_out: Vec<_> =
        keys.iter().flat_map(|set| set.left_out()).map(|(kid, cause)| json!({ "kid": kid, "cause": cause })).collect();
    let health = match (&record.error, key_list.is_empty()) {
        (_, false) if record.restored => "on kept keys",
        (None, false) => "ready",
        (Some(_), false) => "on last good keys",
        (_, true) if !issuer.keyring.is_settled() => "starting",
        (_, true) => "without keys",
    };
    let place = match &issuer.source {
        Source::Discovered(discovery) => discovery.place(),
        Source::Url(_) | Source::File(_) | Source::Inline | Source::Secrets => None,
    };
    let kept = match (&issuer.shelf, &record.unkept) {
        (None, _) => json!(null),
        (Some(_), Some(why)) => json!({ "error": &**why }),
        (Some(shelf), None) => json!({ "file": shelf.path() }),
    };
    json!({
        "issuer": issuer.config.issuer,
        "health": health,
        "source": issuer.source.describe(),
        "discovered": place,
        "keys": key_list,
        "left_out": left_out,
        "heard_seconds_ago": record.heard.map(|heard| now.saturating_duration_since(heard).as_secs()),
        "stale_in_seconds": issuer.until_stale(now).map(|left| left.as_secs()),
        "kept": kept,
        "next_fetch_in_seconds": record.next.map(|next| next.saturating_duration_since(now).as_secs()),
        "in_flight": record.in_flight,
        "fetches": record.attempts,
        "failures_in_a_row": record.failures,
        "last_error": record.error.as_deref(),
    })
}

impl KeyAges for Core {
    fn key_ages(&self) -> Vec<(String, f64)> {
        let now = self.clock.now();
        let world = self.world.load();
        let ages = world.issuers.iter().filter_map(|(name, issuer)| {
            let heard = issuer.keyring.record().heard?;
            Some((name.as_str().to_owned(), now.saturating_duration_since(heard).as_secs_f64()))
        });
        ages.collect()
    }
}
