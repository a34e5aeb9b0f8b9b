//! The rule by which requests are alike to an authorising service, and what they are known by then.

use http::HeaderName;
use sluice_vocabulary::request::RequestView;

/// The longest key: requests with more to tell them apart are asked about each time.
const MAX_KEY: usize = 16 * 1024;

/// One thing that tells requests apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Method,
    Host,
    /// With the query.
    Path,
    Client,
    Header(HeaderName),
}

impl Part {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "method" => Self::Method,
            // The field is refused where it does not agree with this.
            "host" => Self::Host,
            "path" => Self::Path,
            "client" => Self::Client,
            name => Self::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Rule(pub(super) Box<[Part]>);

impl Rule {
    /// What `request` is known by; none where that would be too long. Each text has its length before it, so that no two
    /// requests that differ by the rule have the same key.
    pub(super) fn key(&self, request: &RequestView<'_>) -> Option<Vec<u8>> {
        let mut key = Vec::with_capacity(128);
        for part in &self.0 {
            match part {
                Part::Method => text(&mut key, request.method.as_str().as_bytes()),
                Part::Host => text(&mut key, request.host.as_bytes()),
                Part::Path => {
                    text(&mut key, request.path.as_bytes());
                    // An empty query is not the same as none.
                    key.push(u8::from(request.query.is_some()));
                    text(&mut key, request.query.unwrap_or_default().as_bytes());
                }
                Part::Client => text(&mut key, request.client.to_string().as_bytes()),
                Part::Header(name) => {
                    let values = request.headers.get_all(name);
                    key.extend_from_slice(&(values.iter().count() as u64).to_be_bytes());
                    values.iter().for_each(|value| text(&mut key, value.as_bytes()));
                }
            }
            if key.len() > MAX_KEY {
                return None;
            }
        }
        Some(key)
    }
}

fn text(key: &mut Vec<u8>, bytes: &[u8]) {
    key.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    key.extend_from_slice(bytes);
}
