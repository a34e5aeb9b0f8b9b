//! The host functions of the capabilities: what a plugin learns and asks for beside the message it is called for. Linked only
//! where they were granted.

use std::time::Duration;

use sluice_vocabulary::Identity;
use sluice_vocabulary::claims::Raw;

use crate::call::Call;
use crate::contract::key_value::{Entry, StoreFault};
use crate::contract::metrics::MetricFault;
use crate::contract::routing::RoutingFault;
use crate::contract::{clock, connection, identity, key_value, metrics, random, routing, tags};
use crate::effects::Effects;
use crate::failure::Misuse;
use crate::message::Link;

/// Random bytes that one call may ask for.
const MOST_RANDOM: usize = 1024;

impl identity::Host for Call {
    fn is_verified(&mut self) -> wasmtime::Result<bool> {
        Ok(self.who.identity.is_some())
    }

    fn tenant(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.who.tenant.as_ref().map(|tenant| tenant.as_str().to_owned()))
    }

    fn subject(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.identity().and_then(Identity::subject).map(str::to_owned))
    }

    fn issuer(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.identity().map(|identity| identity.issuer.as_str().to_owned()))
    }

    fn scopes(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.identity().into_iter().flat_map(Identity::scopes).map(str::to_owned).collect())
    }

    fn claim(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.identity().and_then(|identity| claim(identity, &name)))
    }

    fn claims(&mut self) -> wasmtime::Result<String> {
        Ok(self.identity().map_or_else(|| "{}".to_owned(), all_claims))
    }
}

impl connection::Host for Call {
    fn client_address(&mut self) -> wasmtime::Result<String> {
        self.link(|link| link.client.to_string())
    }

    fn peer_address(&mut self) -> wasmtime::Result<String> {
        self.link(|link| link.connection.peer.ip().to_string())
    }

    fn protocol(&mut self) -> wasmtime::Result<String> {
        self.link(|link| format!("{:?}", link.protocol))
    }

    fn tls_version(&mut self) -> wasmtime::Result<Option<String>> {
        self.link(|link| link.connection.tls.as_ref().map(|tls| tls.version.to_owned()))
    }

    fn server_name(&mut self) -> wasmtime::Result<Option<String>> {
        let name = |link: &Link| link.connection.tls.as_ref()?.server_name.as_deref().map(str::to_ascii_lowercase);
        self.link(name)
    }

    fn client_certificate(&mut self) -> wasmtime::Result<Option<String>> {
        let digest = |link: &Link| link.connection.tls.as_ref()?.client_certificate_sha256;
        self.link(|link| digest(link).map(|digest| base64url(&digest)))
    }

    fn round_trip(&mut self) -> wasmtime::Result<Option<u32>> {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.link(|link| link.round_trip.map(micros))
    }
}

impl clock::Host for Call {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.shared.host.clock.since_epoch()))
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        Ok(nanos(self.shared.host.clock.now().saturating_duration_since(self.shared.host.began)))
    }
}

impl random::Host for Call {
    fn bytes(&mut self, length: u32) -> wasmtime::Result<Vec<u8>> {
        let length = length as usize;
        if length > MOST_RANDOM {
            return Err(Misuse::TooMuchRandom(length).into());
        }
        let mut bytes = vec![0; length];
        if self.shared.host.entropy.fill(&mut bytes) { Ok(bytes) } else { Err(Misuse::NoEntropy.into()) }
    }

    fn number(&mut self) -> wasmtime::Result<u64> {
        let mut bytes = [0; 8];
        if self.shared.host.entropy.fill(&mut bytes) {
            Ok(u64::from_le_bytes(bytes))
        } else {
            Err(Misuse::NoEntropy.into())
        }
    }
}

impl metrics::Host for Call {
    fn add(
        &mut self,
        name: String,
        labels: Vec<(String, String)>,
        amount: u64,
    ) -> wasmtime::Result<Result<(), MetricFault>> {
        Ok(self.shared.counts.add(&name, &labels, amount))
    }

    fn set(
        &mut self,
        name: String,
        labels: Vec<(String, String)>,
        value: f64,
    ) -> wasmtime::Result<Result<(), MetricFault>> {
        Ok(self.shared.counts.set(&name, &labels, value))
    }
}

impl routing::Host for Call {
    fn choose_upstream(&mut self, name: String) -> wasmtime::Result<Result<(), RoutingFault>> {
        let granted = self.shared.upstreams.iter().find(|upstream| upstream.as_str() == name).cloned();
        let effects = self.before_the_upstream()?;
        let Some(upstream) = granted else { return Ok(Err(RoutingFault::NotGranted)) };
        effects.choose(upstream);
        Ok(Ok(()))
    }

    fn upstream(&mut self) -> wasmtime::Result<Option<String>> {
        let chosen = self.before_the_upstream()?.upstream().cloned();
        Ok(chosen.or_else(|| self.who.upstream.clone()).map(|name| name.as_str().to_owned()))
    }
}

impl tags::Host for Call {
    fn set(&mut self, name: String, value: String) -> wasmtime::Result<bool> {
        let before = self.who.tags;
        Ok(self.subject.effects_mut().is_some_and(|effects| effects.tag(&name, &value, before)))
    }
}

impl key_value::Host for Call {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Entry>, StoreFault>> {
        Ok(self.shared.store.get(self.who.tenant.as_ref(), &key, self.shared.host.clock.now()))
    }

    fn set(&mut self, key: String, value: Vec<u8>, expires: Option<u64>) -> wasmtime::Result<Result<u64, StoreFault>> {
        let now = self.shared.host.clock.now();
        Ok(self.shared.store.set(self.who.tenant.as_ref(), &key, &value, expires, now))
    }

    fn compare_and_swap(
        &mut self,
        key: String,
        expected: Option<u64>,
        value: Vec<u8>,
        expires: Option<u64>,
    ) -> wasmtime::Result<Result<Option<u64>, StoreFault>> {
        let now = self.shared.host.clock.now();
        Ok(self.shared.store.compare_and_swap(self.who.tenant.as_ref(), &key, expected, &value, expires, now))
    }

    fn increment(
        &mut self,
        key: String,
        amount: i64,
        expires: Option<u64>,
    ) -> wasmtime::Result<Result<i64, StoreFault>> {
        let now = self.shared.host.clock.now();
        Ok(self.shared.store.increment(self.who.tenant.as_ref(), &key, amount, expires, now))
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<Result<bool, StoreFault>> {
        Ok(self.shared.store.delete(self.who.tenant.as_ref(), &key, self.shared.host.clock.now()))
    }
}

impl Call {
    /// What is asked for in a phase in which the request was not sent yet.
    fn before_the_upstream(&mut self) -> Result<&mut Effects, Misuse> {
        let is_in_time = self.subject.phase().is_before_the_upstream();
        self.subject.effects_mut().filter(|_| is_in_time).ok_or(Misuse::TooLate)
    }

    fn identity(&self) -> Option<&Identity> {
        self.who.identity.as_deref()
    }

    fn link<T>(&self, of: impl FnOnce(&Link) -> T) -> wasmtime::Result<T> {
        self.who.link.as_ref().map(of).ok_or_else(|| Misuse::NoConnection.into())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One claim as text, by its name or by a JSON Pointer.
fn claim(identity: &Identity, name: &str) -> Option<String> {
    let Some(pointer) = name.strip_prefix('/') else {
        return match identity.claims().raw(name)? {
            Raw::Text(text) => Some(text.to_owned()),
            raw @ Raw::Json(_) => scalar(&raw.read()?),
        };
    };
    let (first, rest) = pointer.split_once('/').map_or((pointer, None), |(first, rest)| (first, Some(rest)));
    let value = identity.claims().raw(&first.replace("~1", "/").replace("~0", "~"))?.read()?;
    match rest {
        Some(rest) => scalar(value.pointer(&format!("/{rest}"))?),
        None => scalar(&value),
    }
}

fn scalar(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn all_claims(identity: &Identity) -> String {
    let members = identity.claims().iter().filter_map(|(name, raw)| Some((name.to_owned(), raw.read()?)));
    serde_json::Value::Object(members.collect()).to_string()
}

/// Base64url without padding (RFC 4648 section 5).
fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;
    use sluice_vocabulary::IssuerName;

    use super::*;

    fn identity(claims: serde_json::Value) -> Identity {
        let serde_json::Value::Object(claims) = claims else { unreachable!("an object") };
        Identity::new(IssuerName::new("corp").unwrap(), claims.into(), 10)
    }

    #[test]
    fn a_claim_is_found_by_name_and_by_pointer() {
        let who = identity(json!({
            "plan": "gold", "n": 3, "on": true, "none": null, "deep": { "a/b": [{ "c": "x" }] }, "a.b": "dotted", "/odd": "o"
        }));
        let get = |name: &str| claim(&who, name);
        assert_eq!(get("plan").as_deref(), Some("gold"));
        assert_eq!(get("/plan").as_deref(), Some("gold"));
        assert_eq!(get("n").as_deref(), Some("3"));
        assert_eq!(get("/on").as_deref(), Some("true"));
        assert_eq!(get("a.b").as_deref(), Some("dotted"));
        assert_eq!(get("/deep/a~1b/0/c").as_deref(), Some("x"));
        assert_eq!(get("/~1odd").as_deref(), Some("o"));
        for nothing in ["none", "deep", "/deep/a~1b", "/odd", "", "/", "absent", "/plan/x"] {
            assert_eq!(get(nothing), None, "{nothing}");
        }
        let all: serde_json::Value = serde_json::from_str(&all_claims(&who)).unwrap();
        assert_eq!((&all["plan"], &all["deep"]["a/b"][0]["c"]), (&json!("gold"), &json!("x")));
    }
}
