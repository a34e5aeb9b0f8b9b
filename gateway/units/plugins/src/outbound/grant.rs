//! What the operator writes of the services that a plugin may ask: `grants: { http: … }`.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use sluice_vocabulary::{Fault, Faults, Path};

use super::origin::Origin;

/// Origins that one plugin may ask.
const MOST_ORIGINS: usize = 16;
/// Requests of one plugin that may be under way at once, unless said otherwise, and at most.
const CONCURRENCY: u32 = 16;
const MOST_CONCURRENCY: u32 = 128;

/// Other services that a plugin may ask. A list of origins, or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    /// Whom it may ask.
    pub origins: Vec<Origin>,
    /// Requests under way at once.
    pub concurrency: u32,
    /// Who vouches for them.
    pub ca: Option<PathBuf>,
    /// Whether their names may lead to private addresses.
    pub private: bool,
}

/// All that can be said of the services that a plugin may ask.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Long {
    /// Whom it may ask, 1 to 16: scheme, host and port must be these. A name that leads to a private address is not asked
    /// (see `private`); an address that is written here itself is.
    origins: Vec<Origin>,
    /// Requests under way at once, 1 to 128. What is beyond fails at once. Default 16.
    #[serde(default = "concurrency", skip_serializing_if = "is_concurrency")]
    concurrency: u32,
    /// A PEM file of the certificate authorities that may vouch for the https origins, in place of the system's; a relative
    /// path starts at the configuration file's folder. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    /// Whether the names among the origins may lead to private addresses: of this machine (loopback), of private networks
    /// (RFC 1918, RFC 4193, RFC 6598). Link-local addresses, where clouds keep their machines' credentials, are never asked
    /// by a name. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    private: bool,
}

const fn concurrency() -> u32 {
    CONCURRENCY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_concurrency(value: &u32) -> bool {
    *value == CONCURRENCY
}

impl HttpGrant {
    /// These origins, all else by default.
    pub const fn new(origins: Vec<Origin>) -> Self {
        Self { origins, concurrency: CONCURRENCY, ca: None, private: false }
    }

    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        let here = at.key("origins");
        match self.origins.len() {
            0 => faults.push(Fault::error(&here, "no origin is granted").help("name one, or take `http` away")),
            1..=MOST_ORIGINS => {}
            more => faults.error(&here, format!("{more} origins: expected at most {MOST_ORIGINS}")),
        }
        for (index, origin) in self.origins.iter().enumerate() {
            if self.origins[..index].contains(origin) {
                faults.error(&here.index(index), format!("{origin} is granted twice"));
            } else if !origin.is_secure() && !origin.is_this_machine() {
                faults.warning(
                    &here.index(index),
                    format!("{origin} is asked in cleartext: whoever is on the way reads and writes what the plugin decides by"),
                );
            }
        }
        if !(1..=MOST_CONCURRENCY).contains(&self.concurrency) {
            faults.error(
                &at.key("concurrency"),
                format!("{} is out of range: expected 1 to {MOST_CONCURRENCY}", self.concurrency),
            );
        }
        if self.ca.is_some() && !self.origins.iter().any(Origin::is_secure) {
            faults.error(&at.key("ca"), "has no meaning without an https origin");
        }
    }
}

impl Serialize for HttpGrant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { origins, concurrency, ca, private } = self.clone();
        if self == &Self::new(origins.clone()) {
            origins.serialize(serializer)
        } else {
            Long { origins, concurrency, ca, private }.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for HttpGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Written out, since an untagged enum would answer every mistake with "did not match any variant".
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = HttpGrant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a list of origins such as [https://decide.example.com], or { origins, concurrency, ca, private }",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<HttpGrant, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(HttpGrant::new)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HttpGrant, A::Error> {
                let long = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let Long { origins, concurrency, ca, private } = long;
                Ok(HttpGrant { origins, concurrency, ca, private })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for HttpGrant {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HttpGrant".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (origins, long) = (generator.subschema_for::<Vec<Origin>>(), generator.subschema_for::<Long>());
        json_schema!({ "description": "Other services that a plugin may ask.", "anyOf": [origins, long] })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;

    fn faults_of(written: Value) -> Vec<String> {
        let grant: HttpGrant = serde_json::from_value(written).unwrap();
        let mut faults = Faults::new();
        grant.validate(&Path::root().key("http"), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_short_form_and_the_long_one_read_back_as_they_were_written() {
        for written in [
            json!(["https://decide.example.com", "http://127.0.0.1:8181"]),
            json!({ "origins": ["https://decide.example.com"], "concurrency": 3, "ca": "ca.pem", "private": true }),
            json!({ "origins": ["https://decide.example.com"], "private": true }),
        ] {
            let grant: HttpGrant = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(grant).unwrap(), written);
        }
        for (wrong, said) in [
            (json!(true), "expected a list of origins"),
            (json!(["decide.example.com"]), "it has no scheme"),
            (json!({ "origins": [], "concurency": 1 }), "unknown field `concurency`"),
            (json!({ "private": true }), "missing field `origins`"),
        ] {
            let error = serde_json::from_value::<HttpGrant>(wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn every_fault_is_told_with_its_bound() {
        assert_eq!(faults_of(json!([])), ["http.origins: no origin is granted (name one, or take `http` away)"]);
        let many: Vec<String> = (0..17).map(|n| format!("https://{n}.example.com")).collect();
        assert_eq!(faults_of(json!(many)), ["http.origins: 17 origins: expected at most 16"]);
        assert_eq!(
            faults_of(json!({
                "origins": ["http://localhost", "http://LOCALHOST:80"], "concurrency": 129, "ca": "ca.pem"
            })),
            [
                "http.origins[1]: http://localhost is granted twice",
                "http.concurrency: 129 is out of range: expected 1 to 128",
                "http.ca: has no meaning without an https origin",
            ]
        );
        let cleartext = faults_of(json!(["http://decide.example.com"]));
        assert!(cleartext.len() == 1 && cleartext[0].contains("in cleartext"), "{cleartext:?}");
    }
}
