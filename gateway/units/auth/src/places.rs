//! Where in a request a token is looked for: the places that a route names, of which one at most may hold one.
//!
//! `Authorization` is where a token belongs (RFC 6750 section 2.1). The other places are for clients that cannot set it,
//! browsers that open a WebSocket above all. A token from there is a bearer token: the scheme DPoP is one of
//! `Authorization` alone (RFC 9449 section 7.1). Whoever sends several has no one token (RFC 6750 section 2).

use std::borrow::Cow;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Fault, Faults, Path};

use crate::bearer::{self, Found};
use crate::binding::Scheme;
use crate::config::identity_header;
use crate::{cookie, query};

/// The most places of one route.
const MOST: usize = 8;

/// A place in a request where a token may be: exactly one of `header`, `cookie` and `query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenPlace {
    /// A header field. In `authorization` a token follows the scheme Bearer or DPoP; any other field is the token as a whole,
    /// without a scheme. One that a route's `claims_to_headers` names holds none: whatever clients send in it is removed.
    Header(String),
    /// A cookie, by its name, which has case. It is the token as a whole. A browser sends cookies with what other sites' pages
    /// ask of it too: let whoever sets it say `SameSite`, `HttpOnly` and `Secure`, and let routes that change something, and
    /// WebSockets, look at `Origin` (RFC 6750 section 5.3).
    // The mark takes back what the key's name suggests: this is no cookie, but the name of one.
    #[schemars(extend("x-secret" = false))]
    Cookie(String),
    /// A parameter of the query, by its name, as in RFC 6750 section 2.3. URLs end up in histories, logs and the `Referer` of
    /// other requests, and the token with them, so RFC 9700 section 4.3.2 forbids clients to do this: for those that have no
    /// other way. The gateway records no such parameter, and marks answers `Cache-Control: private`.
    Query(String),
}

/// The places of a route, compiled.
#[derive(Debug)]
pub(crate) struct Places(Box<[Place]>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Authorization,
    Header(HeaderName),
    Cookie(Box<str>),
    Query(Box<str>),
}

/// A token, and where it was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Located<'r> {
    pub(crate) token: Cow<'r, [u8]>,
    pub(crate) scheme: Scheme,
    /// The place's number among the route's.
    pub(crate) place: usize,
}

/// A token as it was shown.
type Shown<'r> = (Cow<'r, [u8]>, Scheme);

impl Places {
    /// Compiles what was validated; without any, `Authorization` is the place.
    pub(crate) fn new(wanted: &[TokenPlace]) -> Self {
        if wanted.is_empty() {
            return Self([Place::Authorization].into());
        }
        Self(wanted.iter().filter_map(|place| place.compile().ok()).collect())
    }

    /// Finds the token of `request`, if there is one. The error says why there is not one reading of what is there.
    pub(crate) fn find<'r>(&self, request: &RequestView<'r>) -> Result<Option<Located<'r>>, &'static str> {
        let mut located = None;
        for (number, place) in self.0.iter().enumerate() {
            let Some((token, scheme)) = place.find(request)? else { continue };
            if located.replace(Located { token, scheme, place: number }).is_some() {
                return Err("a token in more than one place");
            }
        }
        Ok(located)
    }

    /// The words for where a token was found.
    pub(crate) fn describe(&self, number: usize, scheme: Scheme) -> String {
        match self.get(number) {
            None | Some(Place::Authorization) => format!("in Authorization, by the scheme {}", scheme.name()),
            Some(Place::Header(name)) => format!("in the field {name}"),
            Some(Place::Cookie(name)) => format!("in the cookie {name}"),
            Some(Place::Query(name)) => format!("in the parameter {name} of the query"),
        }
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Place> {
        self.0.get(number)
    }

    /// The names of parameters that may hold a token.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|place| match place {
            Place::Query(name) => Some(&**name),
            Place::Authorization | Place::Header(_) | Place::Cookie(_) => None,
        })
    }
}

impl Place {
    fn find<'r>(&self, request: &RequestView<'r>) -> Result<Option<Shown<'r>>, &'static str> {
        let token: Option<Cow<'r, [u8]>> = match self {
            Self::Authorization => {
                return match bearer::find(request.headers) {
                    Found::Token(token, scheme) => Ok(Some((token.into(), scheme))),
                    Found::Nothing => Ok(None),
                    Found::Malformed(why) => Err(why),
                };
            }
            Self::Header(name) => {
                let mut fields = request.headers.get_all(name).iter();
                let field = fields.next();
                if fields.next().is_some() {
                    return Err("more than one field of the token's name");
                }
                field.map(|field| field.as_bytes().into())
            }
            Self::Cookie(name) => cookie::find(request.headers, name)?.map(Cow::Borrowed),
            Self::Query(name) => match request.query {
                Some(query) => query::find(query, name)?,
                None => None,
            },
        };
        match token {
            // What is there and is none, an empty text too, is for nobody to guess at.
            Some(token) if !bearer::is_token(&token) => Err("what stands in the token's place is not one token"),
            token => Ok(token.map(|token| (token, Scheme::Bearer))),
        }
    }
}

impl TokenPlace {
    fn compile(&self) -> Result<Place, String> {
        match self {
            Self::Header(name) if name.eq_ignore_ascii_case(AUTHORIZATION.as_str()) => Ok(Place::Authorization),
            Self::Header(name) => match identity_header(name) {
                Ok(header) if header.as_str() == "dpop" => Err("dpop holds the proof, not the token".into()),
                Ok(header) => Ok(Place::Header(header)),
                Err(_) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                    Err(format!("{name} has a meaning of its own and cannot hold a token"))
                }
                Err(why) => Err(why),
            },
            Self::Cookie(name) => cookie::judge_name(name).map(|()| Place::Cookie(name.as_str().into())),
            Self::Query(name) => query::judge_name(name).map(|()| Place::Query(name.as_str().into())),
        }
    }

    const fn key(&self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::Cookie(_) => "cookie",
            Self::Query(_) => "query",
        }
    }
}

/// Reports every fault of a route's places; `own_fields` are header fields that only the gateway may set.
pub(crate) fn validate<'c>(
    wanted: &[TokenPlace],
    own_fields: impl Iterator<Item = &'c String> + Clone,
    at: &Path,
    faults: &mut Faults,
) {
    if wanted.len() > MOST {
        faults.error(at, format!("{} places are named, at most {MOST} are looked at", wanted.len()));
    }
    let mut seen = Vec::new();
    for (index, place) in wanted.iter().enumerate() {
        let here = at.index(index).key(place.key());
        match place.compile() {
            Err(why) => faults.error(&here, why),
            Ok(compiled) if seen.contains(&compiled) => faults.error(&here, "the place is named twice"),
            Ok(compiled) => {
                if let Place::Header(name) = &compiled
                    && own_fields.clone().any(|own| own.eq_ignore_ascii_case(name.as_str()))
                {
                    faults.error(&here, format!("{name} is the gateway's to set, so that no client's token is there"));
                }
                seen.push(compiled);
            }
        }
        if let TokenPlace::Query(name) = place {
            let risk = format!(
                "a token in the parameter {name} ends up in histories, in logs on the way and in Referer: RFC 9700 \
                 section 4.3.2 forbids it to clients"
            );
            faults.push(Fault::warning(&here, risk).help("where clients can, let them use a cookie or Authorization"));
        }
    }
}

/// What goes no further than the gateway, now that a token was taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld<'p> {
    /// Nothing.
    Nothing,
    /// These header fields.
    Fields(&'p [HeaderName]),
    /// One cookie.
    Cookie(WithheldCookie<'p>),
    /// One parameter of the query.
    Parameter(WithheldParameter<'p>),
}

/// A cookie that goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithheldCookie<'p>(pub(crate) &'p str);

impl WithheldCookie<'_> {
    /// A field `Cookie` without it, every other byte as it was; `None` where nothing is left.
    pub fn without(&self, field: &HeaderValue) -> Option<HeaderValue> {
        cookie::without(field, self.0)
    }
}

/// A parameter that goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithheldParameter<'p>(pub(crate) &'p str);

impl WithheldParameter<'_> {
    /// A query without it, every other byte as it was; `None` where nothing is left.
    pub fn without(&self, query: &str) -> Option<String> {
        query::without(query, self.0)
    }
}

/// The parameters of queries that may hold tokens, on any route: what is not to be written down.
#[derive(Debug, Clone, Default)]
pub struct TokenParameters(Arc<[Box<str>]>);

impl TokenParameters {
    pub(crate) fn new(names: Vec<Box<str>>) -> Self {
        Self(names.into())
    }

    /// The query as it may be recorded: with `[redacted]` in place of what may be a token.
    pub fn hide<'q>(&self, query: &'q str) -> Cow<'q, str> {
        if self.0.is_empty() { query.into() } else { query::hide(query, &self.0) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn faults(places: Value) -> Vec<String> {
        let places: Vec<TokenPlace> = serde_json::from_value(places).unwrap();
        let mut faults = Faults::new();
        validate(&places, ["X-User".to_owned()].iter(), &Path::root().key("token_from"), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn places_that_cannot_hold_a_token_are_faults() {
        assert!(faults(json!([{"header": "Authorization"}, {"header": "x-token"}, {"cookie": "__Host-t"}])).is_empty());
        for (place, told) in [
            (json!({"header": "cookie"}), "header: cookie has a meaning of its own and cannot hold a token"),
            (json!({"header": "Host"}), "header: Host has a meaning of its own"),
            (json!({"header": "dpop"}), "header: dpop holds the proof"),
            (json!({"header": "a b"}), "header: \"a b\" is not a header name"),
            (json!({"header": "x-user"}), "header: x-user is the gateway's to set"),
            (json!({"cookie": "a=b"}), "cookie: \"a=b\" is not a cookie's name"),
            (json!({"query": "a b"}), "query: \"a b\" is not a parameter's name"),
        ] {
            let faults = faults(json!([place]));
            assert!(faults[0].starts_with(&format!("token_from[0].{told}")), "{faults:?}");
        }
        let twice = faults(json!([{"header": "authorization"}, {"cookie": "t"}, {"header": "Authorization"}]));
        assert_eq!(twice, ["token_from[2].header: the place is named twice"]);
        let many: Vec<_> = (0..9).map(|number| json!({"cookie": format!("t{number}")})).collect();
        assert_eq!(faults(json!(many)), ["token_from: 9 places are named, at most 8 are looked at"]);
        let query = faults(json!([{"query": "access_token"}]));
        assert!(query.len() == 1 && query[0].contains("RFC 9700"), "{query:?}");
        assert!(serde_json::from_value::<TokenPlace>(json!({"body": "access_token"})).is_err());
    }
}
