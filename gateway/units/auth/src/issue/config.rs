//! What an operator may set about identity tokens: the section `auth.identity_tokens`, and `identity_token` of a route.

use std::path::PathBuf;

use http::HeaderName;
use http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::{Faults, Path};

use crate::config::{identity_header, within};

/// The most claims that a route copies.
const MOST_CLAIMS: usize = 32;

/// Claims that the gateway writes itself, and `cnf`, which speaks of the client's hop and not of the next.
const RESERVED_CLAIMS: [&str; 9] = ["iss", "sub", "sub_id", "aud", "exp", "nbf", "iat", "jti", "cnf"];

/// How the gateway signs identity tokens for upstreams. Its public keys are at `/identity/jwks.json` of the admin
/// listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityTokens {
    /// The value of `iss`: the gateway's own name. Upstreams compare it.
    pub issuer: String,
    /// The signature algorithm.
    pub algorithm: IdentityAlgorithm,
    /// How often another key takes over, from 1h to 30d. A key is published one period before its first use and stays
    /// published for one after its last, so that upstreams need to read the keys no more than once in a period.
    pub rotate: Span,
    /// A folder that keeps the keys over a restart, in a file that its owner alone may read. Relative to the
    /// configuration's folder. Without it keys live in memory: after a restart upstreams must read the keys again, at
    /// the first `kid` that they do not know. It belongs to one gateway; two must not share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
}

impl Default for IdentityTokens {
    fn default() -> Self {
        Self {
            issuer: "sluice".into(),
            algorithm: IdentityAlgorithm::ES256,
            rotate: Span::secs(86_400),
            state_dir: None,
        }
    }
}

/// What identity tokens are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IdentityAlgorithm {
    /// ECDSA on P-256 with SHA-256, which every library for JWTs knows.
    ES256,
    /// Ed25519, which is quicker to sign with.
    EdDSA,
}

impl IdentityAlgorithm {
    /// The name in `alg`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// A route's identity token: a JWT that tells the upstream who sent the request, signed by the gateway. The upstream need
/// not trust headers, nor whatever network lies between.
///
/// It says `iss` (the gateway), `aud`, `iat`, `exp`, `jti`; where the client's token has a subject, `sub` and `sub_id`
/// (RFC 9493), whose member `iss` is the issuer of that token, since a subject is one only within its issuer; and the
/// claims named here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityToken {
    /// The header field that carries it. A client's own field of that name is removed, on every route. `authorization`
    /// is allowed too: it then holds `Bearer` and the token, in place of the client's credentials.
    #[serde(default = "default_header")]
    pub header: String,
    /// The value of `aud`: the upstream's name for itself.
    pub audience: String,
    /// How long a token is good, from 5s to 30m. It is never good longer than the client's own. One is used again for
    /// the same client and audience during the first half of its life.
    #[serde(default = "default_lifetime")]
    pub lifetime: Span,
    /// Claims of the client's token that are copied, where it has them; a dotted path reaches a nested claim, and the
    /// path is its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
}

fn default_header() -> String {
    "x-identity-token".into()
}

const fn default_lifetime() -> Span {
    Span::secs(60)
}

impl IdentityTokens {
    /// Reports every fault.
    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        if self.issuer.is_empty() || self.issuer.len() > 2048 {
            faults.error(
                &at.key("issuer"),
                format!("an iss has 1 to 2048 characters, this one has {}", self.issuer.len()),
            );
        }
        within(self.rotate, Span::secs(3600), Span::secs(30 * 86_400), &at.key("rotate"), faults);
        if self.state_dir.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
            faults.error(&at.key("state_dir"), "a folder's name cannot be empty");
        }
    }
}

impl IdentityToken {
    /// Reports every fault.
    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        if let Err(why) = self.header_name() {
            faults.error(&at.key("header"), why);
        }
        if self.audience.is_empty() || self.audience.len() > 2048 {
            faults.error(
                &at.key("audience"),
                format!("an audience has 1 to 2048 characters, this one has {}", self.audience.len()),
            );
        }
        within(self.lifetime, Span::secs(5), Span::secs(1800), &at.key("lifetime"), faults);
        if self.claims.len() > MOST_CLAIMS {
            faults.error(
                &at.key("claims"),
                format!("{} claims are named, expected at most {MOST_CLAIMS}", self.claims.len()),
            );
        }
        for (index, claim) in self.claims.iter().enumerate() {
            let here = at.key("claims").index(index);
            if claim.is_empty() {
                faults.error(&here, "a claim's name cannot be empty");
            } else if RESERVED_CLAIMS.contains(&claim.as_str()) {
                faults.error(&here, format!("{claim} is the gateway's own to say: expected another claim"));
            } else if self.claims[..index].contains(claim) {
                faults.error(&here, format!("{claim} is listed twice"));
            }
        }
    }

    /// The field that carries it.
    pub(crate) fn header_name(&self) -> Result<HeaderName, String> {
        if self.header.eq_ignore_ascii_case("authorization") {
            return Ok(AUTHORIZATION);
        }
        identity_header(&self.header)
    }
}
