//! What an operator may set: the issuers whose tokens are taken, what a route asks of a token, and the unit's bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use http::{HeaderName, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Faults, IssuerName, Path};

use crate::algorithm::Algorithm;
use crate::binding::SenderConstraint;
use crate::dpop::config::DpopConfig;
use crate::issue::config::{IdentityToken, IdentityTokens};

/// Bounds of the checking of tokens, for all issuers and routes together: the section `auth`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The realm named in `WWW-Authenticate`. Clients show it or ignore it.
    pub realm: String,
    /// Memory for tokens already verified, so that a repeated one costs no signature check; `0B` turns the cache off.
    /// 32MiB hold some 15 000 tokens of common size.
    pub token_cache: ByteSize,
    /// The longest token that is looked at, from 256B to 64KiB. 16KiB is twice what most servers take as a header line.
    pub max_token: ByteSize,
    /// How many tokens not seen before one client address may have checked; over that, it is answered 429. An IPv6
    /// client counts by its /64 network. `null` takes every limit away.
    pub signature_checks_per_address: Option<AddressBudget>,
    /// How proofs of possession are checked.
    pub dpop: DpopConfig,
    /// How the gateway signs identity tokens for upstreams.
    pub identity_tokens: IdentityTokens,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            realm: "sluice".into(),
            token_cache: ByteSize::mib(32),
            max_token: ByteSize::kib(16),
            signature_checks_per_address: Some(AddressBudget::default()),
            dpop: DpopConfig::default(),
            identity_tokens: IdentityTokens::default(),
        }
    }
}

/// A rate of signature checks for each client address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AddressBudget {
    /// Checks allowed in each `per`, at least 1. With the default, one address can keep at most about 1 % of one core busy
    /// with forged RS256 tokens.
    pub checks: u32,
    /// The length of time that `checks` counts in.
    pub per: Span,
    /// Checks allowed at once after a quiet time, at least 1.
    pub burst: u32,
    /// The most addresses remembered. When there are more, those idle longest are forgotten first.
    pub max_addresses: usize,
}

impl Default for AddressBudget {
    fn default() -> Self {
        Self { checks: 200, per: Span::secs(1), burst: 400, max_addresses: 65_536 }
    }
}

/// An issuer whose tokens may be accepted: an entry of the map `issuers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The value of `iss` in its tokens, compared byte by byte.
    pub issuer: String,
    /// Who its tokens must be for: `aud` has to hold one of these.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Takes tokens for any audience. Then a token issued for another service, perhaps one of an attacker, is good here.
    #[serde(default)]
    pub dangerously_accept_any_audience: bool,
    /// The signature algorithms accepted; all by default. Within these it is the key that decides.
    #[serde(default = "every_algorithm")]
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub jwks: JwksConfig,
    /// By how much its clock and ours may differ when `exp` and `nbf` are judged; at most 5m.
    #[serde(default = "default_leeway")]
    pub leeway: Span,
}

fn every_algorithm() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

const fn default_leeway() -> Span {
    Span::secs(30)
}

/// Where an issuer's keys are, and how they are kept fresh. Exactly one of `url` and `file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwksConfig {
    /// An http or https URL of a JWK Set. Redirects are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A file with a JWK Set, read again when it changes. Relative to the configuration's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A PEM file of the certificate authorities that may vouch for `url`, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How often the keys are fetched anew, from 1s to 1d; each time up to a tenth is added at random. How soon a key
    /// that was withdrawn stops being good depends on this.
    #[serde(default = "default_refresh")]
    pub refresh: Span,
    /// The time for one fetch in all, from 100ms to 1m.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How long a request may wait for keys when it must: none were ever had, or its token names an unknown one. From
    /// 0s, which never waits, to 30s.
    #[serde(default = "default_wait")]
    pub wait: Span,
    /// The shortest time between fetches that unknown keys cause, after `demand_burst` of them.
    #[serde(default = "default_demand_every")]
    pub demand_every: Span,
    /// How many fetches unknown keys may cause in a row after a quiet time, from 1 to 16.
    #[serde(default = "default_demand_burst")]
    pub demand_burst: u32,
    /// How long the last keys stay good while the issuer cannot be heard; at least `refresh`. After that its tokens are
    /// answered 503.
    #[serde(default = "default_stale")]
    pub stale: Span,
    /// The largest document taken, from 1KiB to 4MiB.
    #[serde(default = "default_max_size")]
    pub max_size: ByteSize,
}

const fn default_refresh() -> Span {
    Span::secs(300)
}
const fn default_timeout() -> Span {
    Span::secs(5)
}
const fn default_wait() -> Span {
    Span::secs(2)
}
const fn default_demand_every() -> Span {
    Span::secs(10)
}
const fn default_demand_burst() -> u32 {
    2
}
const fn default_stale() -> Span {
    Span::secs(86_400)
}
const fn default_max_size() -> ByteSize {
    ByteSize::kib(256)
}

impl JwksConfig {
    /// Keys from a URL, all else by default.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::empty() }
    }

    /// Keys from a file, all else by default.
    pub fn from_file(file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            url: None,
            file: None,
            ca: None,
            refresh: default_refresh(),
            timeout: default_timeout(),
            wait: default_wait(),
            demand_every: default_demand_every(),
            demand_burst: default_demand_burst(),
            stale: default_stale(),
            max_size: default_max_size(),
        }
    }
}

/// What a route asks of a token: its section `auth`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteAuth {
    /// The issuer whose tokens are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerName>,
    /// The issuers whose tokens are taken, where there are several. They must differ in their `iss`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerName>,
    /// The scopes a token must have; none by default.
    #[serde(default)]
    pub scopes: Scopes,
    /// Header fields for the upstream, each with the claim it carries; a dotted path reaches a nested claim. A field
    /// named here is removed from every client's request, on every route.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims_to_headers: BTreeMap<String, String>,
    /// What binding of tokens to their senders the route demands. A binding that a token carries is enforced in any case.
    #[serde(default)]
    pub sender_constraint: SenderConstraint,
    /// A short-lived token for the upstream that says who sent the request, signed by the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_token: Option<IdentityToken>,
}

/// Scopes, compared whole and by case. Where both lists are given, both must be met.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scopes {
    /// A token needs every one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<String>,
    /// A token needs at least one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<String>,
}

/// Pushes a fault where `value` is outside `bounds`.
pub(crate) fn within<T: PartialOrd + std::fmt::Display>(value: T, least: T, most: T, at: &Path, faults: &mut Faults) {
    if value < least || value > most {
        faults.error(at, format!("{value} is out of bounds: expected {least} to {most}"));
    }
}

impl Config {
    /// Reports every fault.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        // What may stand in a quoted-string without escapes (RFC 9110 section 5.6.4), and no longer than is sensible.
        let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        if self.realm.is_empty() || self.realm.len() > 128 || !self.realm.bytes().all(plain) {
            faults.error(
                &at.key("realm"),
                format!(
                    "{:?} is not a realm: expected 1 to 128 printable ASCII characters without \" and \\",
                    self.realm
                ),
            );
        }
        within(self.max_token, ByteSize::bytes(256), ByteSize::kib(64), &at.key("max_token"), faults);
        within(self.token_cache, ByteSize::bytes(0), ByteSize::mib(1 << 16), &at.key("token_cache"), faults);
        self.dpop.validate(&at.key("dpop"), faults);
        self.identity_tokens.validate(&at.key("identity_tokens"), faults);
        match &self.signature_checks_per_address {
            Some(budget) => budget.validate(&at.key("signature_checks_per_address"), faults),
            None => faults.warning(
                &at.key("signature_checks_per_address"),
                "without a limit one client can keep every core busy with forged tokens",
            ),
        }
    }
}

impl AddressBudget {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        within(self.checks, 1, 1_000_000, &at.key("checks"), faults);
        within(self.burst, 1, 1_000_000, &at.key("burst"), faults);
        within(self.per, Span::millis(100), Span::secs(3600), &at.key("per"), faults);
        within(self.max_addresses, 16, 16_777_216, &at.key("max_addresses"), faults);
    }

    /// Checks per second.
    pub(crate) fn per_second(&self) -> f64 {
        f64::from(self.checks) / self.per.get().as_secs_f64()
    }
}

impl IssuerConfig {
    /// Reports every fault.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        if self.issuer.is_empty() || self.issuer.len() > 2048 {
            faults.error(
                &at.key("issuer"),
                format!("an iss has 1 to 2048 characters, this one has {}", self.issuer.len()),
            );
        }
        match (self.audiences.is_empty(), self.dangerously_accept_any_audience) {
            (true, false) => faults.push(
                sluice_vocabulary::Fault::error(
                    &at.key("audiences"),
                    "no audience is named, so no token can be for us",
                )
                .help("list what the issuer writes into aud for this gateway"),
            ),
            (false, true) => {
                faults.error(&at.key("dangerously_accept_any_audience"), "contradicts audiences: take one of them away")
            }
            (true, true) => faults.warning(
                &at.key("dangerously_accept_any_audience"),
                "a token that the issuer made for any other service is accepted here",
            ),
            (false, false) => {}
        }
        for (index, audience) in self.audiences.iter().enumerate() {
            if audience.is_empty() {
                faults.error(&at.key("audiences").index(index), "an audience cannot be empty");
            }
        }
        if self.algorithms.is_empty() {
            faults.error(&at.key("algorithms"), "no algorithm is named, so no token can be verified");
        }
        within(self.leeway, Span::secs(0), Span::secs(300), &at.key("leeway"), faults);
        self.jwks.validate(&at.key("jwks"), faults);
    }
}

impl JwksConfig {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        match (&self.url, &self.file) {
            (Some(url), None) => self.validate_url(url, at, faults),
            (None, Some(file)) => {
                if file.as_os_str().is_empty() {
                    faults.error(&at.key("file"), "a file name cannot be empty");
                }
                if self.ca.is_some() {
                    faults.error(&at.key("ca"), "has no meaning for keys from a file");
                }
            }
            (None, None) => faults.error(at, "neither url nor file says where the keys are: expected one of them"),
            (Some(_), Some(_)) => faults.error(at, "both url and file say where the keys are: expected one of them"),
        }
        within(self.refresh, Span::secs(1), Span::secs(86_400), &at.key("refresh"), faults);
        within(self.timeout, Span::millis(100), Span::secs(60), &at.key("timeout"), faults);
        within(self.wait, Span::secs(0), Span::secs(30), &at.key("wait"), faults);
        within(self.demand_every, Span::millis(100), Span::secs(3600), &at.key("demand_every"), faults);
        within(self.demand_burst, 1, 16, &at.key("demand_burst"), faults);
        within(self.max_size, ByteSize::kib(1), ByteSize::mib(4), &at.key("max_size"), faults);
        if self.stale < self.refresh {
            faults
                .error(&at.key("stale"), format!("{} is shorter than refresh, which is {}", self.stale, self.refresh));
        }
    }

    fn validate_url(&self, url: &str, at: &Path, faults: &mut Faults) {
        let here = at.key("url");
        let parsed = match url.parse::<Uri>() {
            Ok(parsed) => parsed,
            Err(error) => return faults.error(&here, format!("{url:?} is not a URL: {error}")),
        };
        // A password in a URL ends up in logs; JWK Sets are public anyway.
        if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return faults.error(&here, "a URL of keys holds no user name or password");
        }
        match (parsed.scheme_str(), parsed.host()) {
            (Some("https"), Some(_)) => {}
            (Some("http"), Some(host)) => {
                let host = host.trim_matches(['[', ']']);
                let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
                if !loopback {
                    faults.warning(
                        &here,
                        format!("{url} is fetched in cleartext: whoever is on the way chooses the keys"),
                    );
                }
                if self.ca.is_some() {
                    faults.error(&at.key("ca"), "has no meaning for an http URL");
                }
            }
            _ => faults.error(&here, format!("{url:?} is not an absolute http or https URL")),
        }
    }
}

impl RouteAuth {
    /// Reports every fault that can be seen without knowing the issuers. `Prepared::policy` sees those too.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        match (&self.issuer, self.issuers.is_empty()) {
            (None, true) => faults.error(at, "no issuer is named: expected issuer or issuers"),
            (Some(_), false) => faults.error(at, "both issuer and issuers are given: expected one of them"),
            _ => {}
        }
        let mut seen = BTreeSet::new();
        for (index, name) in self.issuers.iter().enumerate() {
            if !seen.insert(name) {
                faults.error(&at.key("issuers").index(index), format!("issuer {name} is listed twice"));
            }
        }
        for (list, scopes) in [("all", &self.scopes.all), ("any", &self.scopes.any)] {
            for (index, scope) in scopes.iter().enumerate() {
                if !is_scope(scope) {
                    faults.error(
                        &at.key("scopes").key(list).index(index),
                        format!(
                            "{scope:?} is not a scope: expected printable ASCII without space, \" and \\ (RFC 6749)"
                        ),
                    );
                }
            }
        }
        for (header, claim) in &self.claims_to_headers {
            let here = at.key("claims_to_headers").key(header);
            if let Err(why) = identity_header(header) {
                faults.error(&here, why);
            }
            if claim.is_empty() {
                faults.error(&here, "a claim's name cannot be empty");
            }
        }
        if let Some(token) = &self.identity_token {
            let here = at.key("identity_token");
            token.validate(&here, faults);
            if self.claims_to_headers.keys().any(|header| header.eq_ignore_ascii_case(&token.header)) {
                faults.error(&here.key("header"), format!("{} carries a claim already", token.header));
            }
        }
    }

    /// The issuers named, by either key.
    pub(crate) fn issuer_names(&self) -> impl Iterator<Item = &IssuerName> {
        self.issuer.iter().chain(&self.issuers)
    }
}

/// A scope-token of RFC 6749 section 3.3.
fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// A header that may carry a claim: any but those that frame, route or authorise the request.
pub(crate) fn identity_header(name: &str) -> Result<HeaderName, String> {
    const RESERVED: [&str; 16] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header name"))?;
    if RESERVED.contains(&header.as_str()) {
        return Err(format!("{header} has a meaning of its own and cannot carry a claim"));
    }
    Ok(header)
}
