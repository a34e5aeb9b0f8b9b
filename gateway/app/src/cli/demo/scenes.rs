//! What the demo plays: each scene is a request, the answer it must get, and the behaviour that answer proves.
//!
//! A scene is written so that it fails when the behaviour it is named after is taken out of the gateway: the expectations are
//! on what only that behaviour can bring about.

use http::Method;
use serde_json::Value;

use super::issuer::{AUDIENCE, Claims, Issuer};

/// One request and what must come of it.
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) method: Method,
    pub(super) target: &'static str,
    /// `Authorization`'s value without `Bearer `, if it is to be sent.
    pub(super) token: Option<String>,
    pub(super) headers: &'static [(&'static str, &'static str)],
    /// How often it is sent; the last answer counts.
    pub(super) times: usize,
    pub(super) status: u16,
    pub(super) expectations: Vec<Expectation>,
}

/// What an answer must show beyond its status.
pub(super) enum Expectation {
    /// A problem+json body of this type.
    Problem(&'static str),
    /// A header field with this in its value.
    Header(&'static str, &'static str),
    /// The origin received this field with this value.
    OriginGot(&'static str, &'static str),
    /// The origin did not receive a field of this name.
    OriginDidNotGet(&'static str),
    /// The body holds this.
    Body(&'static str),
}

/// An answer as it came.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
}

impl Scene {
    /// What is wrong with the answer; nothing if all is as expected.
    pub(super) fn faults(&self, answer: &Answer) -> Vec<String> {
        let mut faults = Vec::new();
        if answer.status != self.status {
            faults.push(format!("status {} instead of {}", answer.status, self.status));
        }
        let body: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
        let received = |name: &str| body["headers"][name].as_str();
        let header = |name: &str| answer.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()));
        for expectation in &self.expectations {
            let fault = match expectation {
                Expectation::Problem(slug) => {
                    let wanted = format!("{}{slug}", sluice_vocabulary::refusal::PROBLEM_TYPE_PREFIX);
                    (body["type"] != wanted.as_str()).then(|| format!("problem {} instead of {wanted}", body["type"]))
                }
                Expectation::Header(name, part) => (!header(name).is_some_and(|value| value.contains(part)))
                    .then(|| format!("{name}: {:?} instead of one with {part:?}", header(name))),
                Expectation::OriginGot(name, value) => (received(name) != Some(value))
                    .then(|| format!("the origin got {name}: {:?} instead of {value:?}", received(name))),
                Expectation::OriginDidNotGet(name) => {
                    received(name).map(|value| format!("the origin got {name}: {value:?}, which it should not"))
                }
                Expectation::Body(part) => (!answer.body.contains(part)).then(|| format!("a body without {part:?}")),
            };
            faults.extend(fault);
        }
        faults
    }

    /// What the answer showed, in a few words.
    pub(super) fn shown(&self, answer: &Answer) -> String {
        let mut parts: Vec<String> = Vec::new();
        for expectation in &self.expectations {
            match expectation {
                Expectation::Problem(slug) => parts.push((*slug).to_owned()),
                Expectation::Header(name, _) => {
                    let value = answer.headers.get(*name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
                    parts.push(format!("{name}: {}", value.unwrap_or_default()));
                }
                Expectation::OriginGot(name, value) => parts.push(format!("origin got {name}: {value}")),
                Expectation::OriginDidNotGet(name) => parts.push(format!("origin got no {name}")),
                Expectation::Body(part) => parts.push(format!("body has {part:?}")),
            }
        }
        parts.join("; ")
    }
}

const CLAIMS: Claims<'static> =
    Claims { subject: "ada", tenant: "acme", scope: "orders:read", audience: AUDIENCE, expires_in: 3600 };

/// The three tenants' tokens, for the commands that the demo prints.
pub(super) fn tenants_tokens(issuer: &Issuer) -> Result<Vec<(&'static str, String)>, String> {
    ["acme", "globex", "initech"]
        .into_iter()
        .map(|tenant| Ok((tenant, issuer.rs256(Claims { tenant, ..CLAIMS })?)))
        .collect()
}

/// All scenes, in the order in which they are played.
pub(super) fn scenes(issuer: &Issuer) -> Result<Vec<Scene>, String> {
    use Expectation::{Body, Header, OriginDidNotGet, OriginGot, Problem};
    let good = issuer.rs256(CLAIMS)?;
    let scene = |name, target, token: Option<&str>, status, expectations| Scene {
        name,
        method: Method::GET,
        target,
        token: token.map(str::to_owned),
        headers: &[],
        times: 1,
        status,
        expectations,
    };
    Ok(vec![
        scene(
            "good token, RS256",
            "/orders/42",
            Some(&good),
            200,
            vec![Body("\"origin\": \"demo\""), OriginGot("x-auth-subject", "ada"), OriginGot("x-tenant", "acme")],
        ),
        scene(
            "good token, ES256",
            "/orders/42",
            Some(&issuer.es256(CLAIMS)?),
            200,
            vec![OriginGot("x-auth-subject", "ada")],
        ),
        scene(
            "no token",
            "/orders/42",
            None,
            401,
            vec![Problem("token-missing"), Header("www-authenticate", "Bearer")],
        ),
        scene(
            "expired token",
            "/orders/42",
            Some(&issuer.rs256(Claims { expires_in: -3600, ..CLAIMS })?),
            401,
            vec![Problem("token-expired"), Header("www-authenticate", "error=\"invalid_token\"")],
        ),
        scene(
            "token for another audience",
            "/orders/42",
            Some(&issuer.rs256(Claims { audience: "billing", ..CLAIMS })?),
            401,
            vec![Problem("token-not-accepted-here")],
        ),
        scene(
            "token without the scope",
            "/orders/42",
            Some(&issuer.rs256(Claims { scope: "orders:write", ..CLAIMS })?),
            403,
            vec![Problem("scope-missing"), Header("www-authenticate", "error=\"insufficient_scope\"")],
        ),
        scene("forged signature", "/orders/42", Some(&issuer.forged(CLAIMS)?), 401, vec![Problem("token-rejected")]),
        scene(
            "alg: none",
            "/orders/42",
            Some(&Issuer::unsigned(CLAIMS)),
            401,
            vec![
                Header("www-authenticate", "error=\"invalid_token\""),
                Header("content-type", "application/problem+json"),
            ],
        ),
        Scene {
            headers: &[("x-auth-subject", "root"), ("x-tenant", "globex")],
            ..scene(
                "identity headers from a client",
                "/orders/42",
                Some(&good),
                200,
                vec![OriginGot("x-auth-subject", "ada"), OriginGot("x-tenant", "acme")],
            )
        },
        scene("a plugin (Rust) adds a header", "/orders/42", Some(&good), 200, vec![OriginGot("x-region", "eu-1")]),
        scene(
            "a plugin (AssemblyScript) adds it",
            "/parcels/42",
            Some(&good),
            200,
            vec![OriginGot("x-region", "eu-2")],
        ),
        Scene {
            headers: &[("x-blocked", "yes")],
            ..scene("a plugin refuses", "/orders/42", Some(&good), 403, vec![Problem("plugin-refused")])
        },
        Scene {
            headers: &[("x-trap", "now")],
            ..scene("a plugin traps", "/fragile/42", None, 500, vec![Problem("plugin-failed")])
        },
        scene(
            "and harms nobody else",
            "/fragile/42",
            None,
            200,
            vec![Body("\"origin\": \"demo\""), OriginDidNotGet("x-hostile")],
        ),
        Scene {
            times: 4,
            ..scene(
                "a tenant over its rate",
                "/orders/42",
                Some(&issuer.rs256(Claims { tenant: "initech", ..CLAIMS })?),
                429,
                vec![Problem("tenant-rate-limited"), Header("retry-after", "")],
            )
        },
        scene("a path that climbs", "/static/../orders/42", None, 401, vec![Problem("token-missing")]),
        scene("nothing is served here", "/nowhere", None, 404, vec![Problem("no-route")]),
        scene("an answer of the gateway's own", "/ping", None, 200, vec![Body("pong")]),
        scene("upstream down", "/down/42", None, 502, vec![Problem("upstream-connect")]),
        Scene {
            method: Method::POST,
            ..scene("reset by upstream", "/resets/42", None, 502, vec![Problem("upstream-reset")])
        },
    ])
}
