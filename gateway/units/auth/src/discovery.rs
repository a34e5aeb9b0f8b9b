//! Finding an issuer's keys by its metadata: OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3.
//!
//! Of the document two members matter: `issuer`, which must be the configured one byte by byte, or the metadata are
//! another's; and `jwks_uri`, which must be https unless the metadata themselves came in cleartext, since whoever is on
//! the way would choose the keys.
//!
//! The metadata change rarely and are read again only every hour, or when the keys are not where they said. While they
//! cannot be read, the place they named last stays good for as long as keys would; metadata that can be read and are
//! wrong are believed at once, and end that.

use std::time::{Duration, Instant};

use http::Uri;
use parking_lot::Mutex;
use serde_json::Value;

use crate::fetch::{Document, FetchFault, Fetched, HttpClient};
use crate::strict_json::{self, BadJson};

/// For how long metadata are believed without a new look.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// The longest `jwks_uri` taken.
const MAX_URL: usize = 2048;

/// Why metadata name no place of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMetadata {
    #[error("the issuer's metadata are {0}")]
    Json(#[from] BadJson),
    #[error("the issuer's metadata have no string {0}")]
    Missing(&'static str),
    #[error("the metadata are of issuer {found:?}, expected {expected:?} byte by byte")]
    OtherIssuer { found: String, expected: String },
    #[error("the metadata's jwks_uri {found:?} {why}")]
    BadPlace { found: String, why: &'static str },
}

/// The keys of an issuer that tells where they are.
#[derive(Debug)]
pub(crate) struct Discovery {
    /// Where the metadata are.
    url: Uri,
    /// The `iss` they must be of.
    issuer: String,
    client: HttpClient,
    /// For how long a place stays good while the metadata cannot be read.
    stale: Duration,
    known: Mutex<Option<Known>>,
}

/// What the metadata said.
#[derive(Debug, Clone)]
struct Known {
    place: Uri,
    read: Instant,
}

impl Discovery {
    /// Metadata at `url`, which must be those of `issuer`. The error says what is wrong with the URL.
    pub(crate) fn new(url: &str, issuer: &str, client: HttpClient, stale: Duration) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        Ok(Self { url, issuer: issuer.into(), client, stale, known: Mutex::default() })
    }

    pub(crate) fn describe(&self) -> String {
        self.url.to_string()
    }

    /// Where the keys are, by the metadata read last.
    pub(crate) fn place(&self) -> Option<String> {
        self.known.lock().as_ref().map(|known| known.place.to_string())
    }

    /// The time for one attempt in all.
    pub(crate) fn timeout(&self) -> Duration {
        self.client.timeout
    }

    /// Reads the keys at `now`, and first the metadata where that is due.
    pub(crate) async fn read(&self, now: Instant) -> Result<Fetched, FetchFault> {
        let known = self.known.lock().clone();
        let age = |known: &Known| now.saturating_duration_since(known.read);
        let (place, is_new) = match known {
            Some(known) if age(&known) < LOOK_AGAIN => (known.place, false),
            Some(known) => match self.look_in_half_the_time(now).await {
                Ok(place) => (place, true),
                Err(fault @ FetchFault::Metadata(_)) => return Err(fault),
                Err(fault) if age(&known) >= self.stale => return Err(fault),
                Err(_) => (known.place, true),
            },
            None => (self.look(now).await?, true),
        };
        match self.client.get(&place, Document::KeySet).await {
            Err(fault) if !is_new => {
                // They may have moved.
                let moved = self.look(now).await?;
                if moved == place {
                    return Err(fault);
                }
                self.client.get(&moved, Document::KeySet).await
            }
            outcome => outcome,
        }
    }

    /// Reads the metadata while leaving time for the keys, where an older place would do.
    async fn look_in_half_the_time(&self, now: Instant) -> Result<Uri, FetchFault> {
        let half = self.client.timeout / 2;
        tokio::time::timeout(half, self.look(now))
            .await
            .unwrap_or_else(|_| Err(FetchFault::OfMetadata(Box::new(FetchFault::Timeout(half)))))
    }

    async fn look(&self, now: Instant) -> Result<Uri, FetchFault> {
        let answer = self.client.get(&self.url, Document::Metadata).await;
        let document = answer.map_err(|fault| FetchFault::OfMetadata(Box::new(fault)))?.document;
        let secure = self.url.scheme_str() == Some("https");
        let read = place_of_keys(&document, &self.issuer, secure);
        *self.known.lock() = read.as_ref().ok().map(|place| Known { place: place.clone(), read: now });
        Ok(read?)
    }
}

/// The `jwks_uri` of metadata that are those of `issuer`; an https one where the metadata came `secure`.
pub(crate) fn place_of_keys(metadata: &[u8], issuer: &str, secure: bool) -> Result<Uri, BadMetadata> {
    let members = strict_json::object(metadata)?;
    let text = |name| match members.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(BadMetadata::Missing(name)),
    };
    let found = text("issuer")?;
    if found != issuer {
        return Err(BadMetadata::OtherIssuer { found: shortened(found), expected: issuer.into() });
    }
    let found = text("jwks_uri")?;
    // A password in a URL ends up in logs; key sets are public anyway.
    if found.contains('@') {
        return Err(BadMetadata::BadPlace { found: String::new(), why: "holds a user name or password" });
    }
    let bad = |why| BadMetadata::BadPlace { found: shortened(found), why };
    if found.len() > MAX_URL {
        return Err(bad("is longer than 2048 bytes"));
    }
    let place: Uri = found.parse().map_err(|_| bad("is not a URL"))?;
    match (place.scheme_str(), place.host()) {
        (_, None | Some("")) => return Err(bad("is not an absolute URL")),
        (Some("https"), _) => {}
        (Some("http"), _) if !secure => {}
        (Some("http"), _) => return Err(bad("is http, expected https")),
        _ => return Err(bad("is neither https nor http")),
    }
    Ok(place)
}

/// Where an issuer has its metadata by OpenID Connect Discovery 1.0 section 4: its own URL with a path added. The error
/// says why there is no such place.
pub(crate) fn well_known(issuer: &str) -> Result<String, String> {
    let bad = |why| Err(format!("the issuer {issuer:?} {why}, so its metadata have no known place: give their URL"));
    let Ok(url) = issuer.parse::<Uri>() else { return bad("is not a URL") };
    match (url.scheme_str(), url.host()) {
        (Some("https" | "http"), Some(host)) if !host.is_empty() => {}
        _ => return bad("is not an https or http URL"),
    }
    if issuer.contains(['?', '#']) {
        return bad("has a query or fragment");
    }
    Ok(format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer)))
}

/// What another wrote, as much of it as an error should hold.
fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const ISS: &str = "https://id.example.com/a";

    fn place(metadata: &Value, secure: bool) -> Result<String, String> {
        let place = place_of_keys(metadata.to_string().as_bytes(), ISS, secure);
        place.map(|place| place.to_string()).map_err(|bad| bad.to_string())
    }

    #[test]
    fn metadata_name_the_place_of_keys_of_their_own_issuer_alone() {
        let good = json!({"issuer": ISS, "jwks_uri": "https://keys.example.com/k?v=1", "scopes_supported": ["a"]});
        assert_eq!(place(&good, true).unwrap(), "https://keys.example.com/k?v=1");
        for other in [
            json!("https://id.example.com/a/"),
            json!("https://id.example.com/A"),
            json!("https://id.example.com:443/a"),
            json!("https://evil.example.com/"),
            json!(""),
        ] {
            let mut metadata = good.clone();
            metadata["issuer"] = other;
            assert!(place(&metadata, true).unwrap_err().contains("byte by byte"), "{metadata}");
        }
        for missing in [json!({"jwks_uri": "https://a/"}), json!({"issuer": [ISS], "jwks_uri": "https://a/"})] {
            assert_eq!(place(&missing, true).unwrap_err(), "the issuer's metadata have no string issuer");
        }
        assert_eq!(place(&json!({"issuer": ISS}), true).unwrap_err(), "the issuer's metadata have no string jwks_uri");
        let twice = format!(r#"{{"issuer":"{ISS}","jwks_uri":"https://a/","jwks_uri":"https://b/"}}"#);
        assert!(matches!(place_of_keys(twice.as_bytes(), ISS, true), Err(BadMetadata::Json(_))));
    }

    #[test]
    fn a_place_of_keys_is_as_secure_as_the_metadata_that_name_it() {
        let at = |url: &str, secure| place(&json!({"issuer": ISS, "jwks_uri": url}), secure);
        assert!(at("http://keys.example.com/", true).unwrap_err().contains("expected https"));
        assert!(at("http://keys.example.com/", false).is_ok());
        assert!(at("https://keys.example.com/", false).is_ok());
        let long = format!("https://a/{}", "x".repeat(2048));
        for (bad, why) in [
            ("", "is not a URL"),
            ("/keys", "not an absolute URL"),
            ("https://", "is not a URL"),
            ("ftp://a/", "neither https nor http"),
            ("file:///etc/passwd", "is not a URL"),
            ("https://user:secret@a/", "user name or password"),
            ("https://a/ b", "is not a URL"),
            ("https://a/\r\nx: y", "is not a URL"),
            (&long, "longer than 2048"),
        ] {
            let error = at(bad, false).unwrap_err();
            assert!(error.contains(why) && error.len() < 400 && !error.contains("secret"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn the_known_place_is_the_issuers_own_with_a_path_added() {
        for (issuer, expected) in [
            ("https://id.example.com", "https://id.example.com/.well-known/openid-configuration"),
            ("https://id.example.com/", "https://id.example.com/.well-known/openid-configuration"),
            ("http://id:8080/realms/a", "http://id:8080/realms/a/.well-known/openid-configuration"),
        ] {
            assert_eq!(well_known(issuer).unwrap(), expected);
        }
        for bad in ["", "corp", "id.example.com", "urn:corp", "ftp://a", "https://a?b", "https://a/#b", "https://a b"] {
            assert!(well_known(bad).unwrap_err().contains("give their URL"), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_metadata_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), url in ".{0,60}") {
            let _ = place_of_keys(&bytes, ISS, true);
            let metadata = json!({"issuer": ISS, "jwks_uri": url}).to_string();
            if let Ok(place) = place_of_keys(metadata.as_bytes(), ISS, true) {
                prop_assert_eq!(place.scheme_str(), Some("https"));
            }
        }
    }
}
