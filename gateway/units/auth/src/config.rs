//! What an operator may set: the issuers whose tokens are taken, what a route asks of a token, and the unit's bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Faults, IssuerName, Path};

use crate::algorithm::Algorithm;
use crate::binding::SenderConstraint;
use crate::discovery;
use crate::dpop::DPOP_NONCE;
use crate::dpop::config::DpopConfig;
use crate::introspection::config::IntrospectionConfig;
use crate::issue::config::{IdentityToken, IdentityTokens};
use crate::jwk::KeySet;
use crate::places::{self, TokenPlace};
use crate::pointer::ClaimPath;
use crate::predicates::{self, ClaimRule};
use crate::revocation::config::RevocationConfig;
use crate::scopes;
use crate::shared_secret::{self, SharedSecret};
use crate::step_up::StepUp;

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
    /// A folder where the last good keys of issuers are kept, so that a restart finds them while an issuer is down. Made if
    /// it is not there; relative to the configuration's folder. Whoever may write there may choose the keys. None by
    /// default: then a restart during an outage has no keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Tokens taken back before they expire.
    pub revocation: RevocationConfig,
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
            state_dir: None,
            revocation: RevocationConfig::default(),
            dpop: DpopConfig::default(),
            identity_tokens: IdentityTokens::default(),
        }
    }
}

/// A rate of signature checks for each client address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AddressBudget {
    /// Checks allowed in each `per`, at least 1; a token that does not name its key costs one for each key tried. With the default, one address can keep at most about 1 % of one core busy
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
    /// The signature algorithms accepted; all by default. Within these it is the key that decides. MACs (HS256 and the
    /// like) are not among them: an issuer has those by `secrets` alone, each of which names its own.
    #[serde(default = "every_algorithm")]
    pub algorithms: Vec<Algorithm>,
    /// Where its public keys are. An issuer has exactly one of `jwks`, `introspection` and `secrets`.
    #[serde(default = "JwksConfig::empty", skip_serializing_if = "JwksConfig::is_empty")]
    pub jwks: JwksConfig,
    /// In place of keys: the endpoint that is asked about its tokens. Then `audiences` may be left out, since an endpoint
    /// tells each client of tokens for that client alone (RFC 7662 section 4), and `algorithms` has no meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionConfig>,
    /// In place of public keys: secrets that it makes MACs with, at most 8. For an issuer that cannot sign with a private
    /// key. Several are for the time in which one replaces another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SharedSecret>,
    /// The `typ` that its tokens must have. With `at+jwt` a token is taken only if it says that it is an access token by
    /// RFC 9068 (`at+jwt` or `application/at+jwt`, in any case) and has the claims that section 2.2 requires: beside `iss`,
    /// `exp` and `aud` these are `sub`, `client_id`, `iat` and `jti`. Then no other JWT of the issuer, such as an ID token,
    /// can pass for one. Default: `at+jwt`, `JWT` and none at all are taken, and every other is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_type: Option<TokenType>,
    /// By how much its clock and ours may differ when `exp` and `nbf` are judged; at most 5m.
    #[serde(default = "default_leeway")]
    pub leeway: Span,
    /// The claim that names the scopes granted: a dotted path (`realm_access.roles`) or a JSON pointer
    /// (`/realm_access/roles`) to a text parted by spaces or a list of texts. Default: `scope`, or `scp` where there is no
    /// `scope`; named here, another claim grants in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_claim: Option<String>,
}

/// The kind of JWT that an issuer's tokens must say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenType {
    /// An access token (RFC 9068).
    #[serde(rename = "at+jwt")]
    AtJwt,
}

fn every_algorithm() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

const fn default_leeway() -> Span {
    Span::secs(30)
}

/// Where an issuer's keys are, and how they are kept fresh. Exactly one of `discovery`, `url`, `file` and `keys`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwksConfig {
    /// The issuer says itself where its keys are, in its metadata: `true` where these are at the issuer's own URL with
    /// `/.well-known/openid-configuration` added (OpenID Connect Discovery 1.0), or the http or https URL of the metadata
    /// (RFC 8414 puts them elsewhere). Their `issuer` must be the configured one byte by byte. Redirects are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<DiscoveryConfig>,
    /// An http or https URL of a JWK Set. Redirects are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A file with a JWK Set, read again when it changes. Relative to the configuration's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The public keys themselves: a JWK Set, or the list in it. They change with the configuration alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<InlineKeys>,
    /// A PEM file of the certificate authorities that may vouch for `discovery`, for the keys it leads to, and for `url`,
    /// in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The longest time between two fetches of the keys, from 1s to 1d; up to a tenth is taken off at random, and more
    /// where the answer's `Cache-Control` says so. How soon a key that was withdrawn stops being good depends on this.
    #[serde(default = "default_refresh")]
    pub refresh: Span,
    /// The shortest time between two fetches that the issuer may have by `Cache-Control`, before the tenth is taken off;
    /// from 1s to `refresh`. 30s by default, or `refresh` where that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_min: Option<Span>,
    /// The time for one fetch in all, that of the metadata included, from 100ms to 1m.
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
    /// How long the last keys stay good while the issuer cannot be heard, be it across restarts (see `auth.state_dir`); at
    /// least `refresh`. After that its tokens are answered 503.
    #[serde(default = "default_stale")]
    pub stale: Span,
    /// The largest document taken, from 1KiB to 4MiB.
    #[serde(default = "default_max_size")]
    pub max_size: ByteSize,
}

const fn default_refresh() -> Span {
    Span::secs(300)
}
/// Often enough for a quick rotation, and no burden to anybody.
const DEFAULT_REFRESH_MIN: Span = Span::secs(30);
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

    /// Keys where the issuer's metadata say, these being at the known place, all else by default.
    pub fn from_discovery() -> Self {
        Self { discovery: Some(DiscoveryConfig::AtIssuer(true)), ..Self::empty() }
    }

    /// The keys of the JWK Set `keys`, all else by default.
    pub fn from_keys(keys: Map<String, Value>) -> Self {
        Self { keys: Some(InlineKeys::Set(keys)), ..Self::empty() }
    }

    /// The bounds that an answer's `Cache-Control` is held within.
    pub(crate) fn refresh_bounds(&self) -> (Duration, Duration) {
        let most = self.refresh;
        (self.refresh_min.unwrap_or(DEFAULT_REFRESH_MIN).min(most).get(), most.get())
    }

    /// No keys, as issuers have it whose tokens are introspected.
    pub fn empty() -> Self {
        Self {
            discovery: None,
            url: None,
            file: None,
            keys: None,
            ca: None,
            refresh: default_refresh(),
            refresh_min: None,
            timeout: default_timeout(),
            wait: default_wait(),
            demand_every: default_demand_every(),
            demand_burst: default_demand_burst(),
            stale: default_stale(),
            max_size: default_max_size(),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::empty()
    }
}

/// Where an issuer's metadata are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DiscoveryConfig {
    /// `true`: at the issuer's URL with `/.well-known/openid-configuration` added. `false` says nothing.
    AtIssuer(bool),
    /// At this http or https URL.
    At(String),
}

/// Public keys in the configuration.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum InlineKeys {
    /// A JWK Set (RFC 7517 section 5).
    Set(Map<String, Value>),
    /// The list of keys of one.
    List(Vec<Map<String, Value>>),
}

impl InlineKeys {
    /// The keys, of which each must be usable with one of `algorithms`. The error says which is not, and why.
    pub(crate) fn parse(&self, algorithms: &[Algorithm]) -> Result<KeySet, String> {
        let json = match self {
            Self::Set(set) => serde_json::to_vec(set),
            Self::List(keys) => serde_json::to_vec(&BTreeMap::from([("keys", keys)])),
        };
        let json = json.map_err(|error| error.to_string())?;
        let keys = KeySet::parse(&json, algorithms.iter().collect()).map_err(|bad| bad.to_string())?;
        // A fetched set may hold what others need; these keys were written down for this gateway.
        match keys.left_out().first() {
            Some((Some(kid), cause)) => Err(format!("the key {kid:?} cannot be used: {cause}")),
            Some((None, cause)) => Err(format!("a key without kid cannot be used: {cause}")),
            None if keys.keys().is_empty() => Err("the key set is empty, so no token can be verified".into()),
            None => Ok(keys),
        }
    }
}

impl std::fmt::Debug for InlineKeys {
    // Private keys are refused, yet may have been written here by mistake.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InlineKeys")
    }
}

/// What a route asks of a token: its section `auth`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteAuth {
    /// The issuer whose tokens are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerName>,
    /// The issuers whose tokens are taken, where there are several. Those with keys must differ in their `iss`; beside them
    /// one with `introspection` may stand, which is asked about tokens that are none of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerName>,
    /// Whether a request may come without a token; it is then anonymous, and passes whatever else is asked of tokens.
    /// One that comes with a token that is no good is refused all the same. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Where in a request the token may be, at most 8 places; in one that is not named it is not looked for. A request that
    /// has a token in more than one of them is answered 400, as one with two (RFC 6750 section 2). Default: the header field
    /// `Authorization` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_from: Vec<TokenPlace>,
    /// The scopes a token must have; none by default.
    #[serde(default)]
    pub scopes: Scopes,
    /// What single claims must be. All rules must hold; a claim that is absent meets none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimRule>,
    /// How the user must have been authenticated. A token of less is answered 401 with what to ask the issuer for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUp>,
    /// Whether those behind the gateway get the token.
    #[serde(default)]
    pub credentials: Credentials,
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

/// What becomes of a token once it was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// The token goes on to plugins and the upstream as it came. The default, since it is what a proxy does with
    /// `Authorization` (RFC 9110 section 11.6.2), and an upstream that checks tokens itself, as it should, needs it.
    #[default]
    Pass,
    /// The token is removed from where it was found: no plugin and no upstream sees it. For upstreams that need no token,
    /// since whoever holds one can use it elsewhere. Of cookies and of the query the token's own goes and the others stay as
    /// they are. Credentials of other schemes, which an `optional` route lets pass, are not touched.
    Strip,
}

/// Scopes, compared whole and by case unless `hierarchical`. Each list given must be met. At most 64 in all, of at most 256
/// bytes each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scopes {
    /// A token needs every one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<String>,
    /// A token needs at least one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<String>,
    /// A token with any of these is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub none: Vec<String>,
    /// Whether scopes are paths parted by colons, in which a segment `*` is a wildcard: for one or more segments at the
    /// end, for exactly one before. A wildcard in these lists means any scope that it covers, one in a token means all of
    /// them. Only for issuers that give such scopes to those who are to have them: a token with the scope `*` has every
    /// scope. Default: false, and `*` is a character like any other.
    pub hierarchical: bool,
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
        if self.state_dir.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
            faults.error(&at.key("state_dir"), "a folder's name cannot be empty");
        }
        self.revocation.validate(&at.key("revocation"), faults);
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

impl Config {
    /// The fields of answers on routes with [`RouteAuth`] that tell a client what to do next, and that it must be able to
    /// read: where scripts of other origins are let in, they are to be exposed to them.
    pub fn answer_fields(&self) -> impl Iterator<Item = HeaderName> {
        [WWW_AUTHENTICATE].into_iter().chain(self.dpop.nonce.as_ref().map(|_| DPOP_NONCE))
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
            // The endpoint knows whom it tells.
            (true, false) if self.introspection.is_some() => {}
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
        if let Some(Err(why)) = self.scope_claim.as_deref().map(ClaimPath::parse) {
            faults.error(&at.key("scope_claim"), why);
        }
        match &self.introspection {
            None if !self.secrets.is_empty() => {}
            None => self.jwks.validate(&self.issuer, &self.algorithms, &at.key("jwks"), faults),
            Some(introspection) => {
                introspection.validate(&at.key("introspection"), faults);
                if !self.jwks.is_empty() {
                    faults.error(&at.key("introspection"), "contradicts jwks: take one of them away");
                }
                if self.token_type.is_some() {
                    let why = "has no meaning with introspection, which tells what a token is: take it away";
                    faults.error(&at.key("token_type"), why);
                }
            }
        }
        if !self.secrets.is_empty() {
            self.validate_secrets(at, faults);
        }
    }

    fn validate_secrets(&self, at: &Path, faults: &mut Faults) {
        let here = at.key("secrets");
        shared_secret::validate(&self.secrets, &here, faults);
        if !self.jwks.is_empty() {
            faults.error(&here, "contradicts jwks: take one of them away");
        }
        if self.introspection.is_some() {
            faults.error(&here, "contradicts introspection: take one of them away");
        }
        if self.algorithms != every_algorithm() {
            let why = "has no meaning beside secrets, each of which names its own algorithm: take it away";
            faults.error(&at.key("algorithms"), why);
        }
    }
}

impl JwksConfig {
    /// `issuer` and `algorithms` are those of the issuer whose keys these are.
    fn validate(&self, issuer: &str, algorithms: &[Algorithm], at: &Path, faults: &mut Faults) {
        let ways = [
            ("discovery", self.discovery.is_some()),
            ("url", self.url.is_some()),
            ("file", self.file.is_some()),
            ("keys", self.keys.is_some()),
        ];
        let given: Vec<_> = ways.into_iter().filter_map(|(name, given)| given.then_some(name)).collect();
        match given[..] {
            [] => faults.error(at, "nothing says where the keys are: expected one of discovery, url, file and keys"),
            [_] => {}
            [one, other] => {
                faults.error(at, format!("both {one} and {other} say where the keys are: expected one of them"));
            }
            _ => faults.error(at, format!("{} say where the keys are: expected one of them", given.join(", "))),
        }
        match &self.discovery {
            Some(DiscoveryConfig::At(url)) => self.validate_url(url, &at.key("discovery"), at, faults),
            Some(DiscoveryConfig::AtIssuer(true)) => match discovery::well_known(issuer) {
                Ok(url) => self.validate_url(&url, &at.key("discovery"), at, faults),
                Err(why) => faults.error(&at.key("discovery"), why),
            },
            Some(DiscoveryConfig::AtIssuer(false)) => {
                faults.error(&at.key("discovery"), "false says nothing: expected true, a URL, or no discovery");
            }
            None => {}
        }
        if let Some(url) = &self.url {
            self.validate_url(url, &at.key("url"), at, faults);
        }
        if self.file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
            faults.error(&at.key("file"), "a file name cannot be empty");
        }
        if let Some(keys) = &self.keys
            && let Err(why) = keys.parse(algorithms)
        {
            faults.error(&at.key("keys"), why);
        }
        if self.ca.is_some() && self.url.is_none() && self.discovery.is_none() {
            faults.error(&at.key("ca"), "has no meaning for keys that are not fetched");
        }
        within(self.refresh, Span::secs(1), Span::secs(86_400), &at.key("refresh"), faults);
        if let Some(least) = self.refresh_min {
            within(least, Span::secs(1), self.refresh.max(Span::secs(1)), &at.key("refresh_min"), faults);
        }
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

    fn validate_url(&self, url: &str, here: &Path, at: &Path, faults: &mut Faults) {
        let parsed = match url.parse::<Uri>() {
            Ok(parsed) => parsed,
            Err(error) => return faults.error(here, format!("{url:?} is not a URL: {error}")),
        };
        // A password in a URL ends up in logs; JWK Sets are public anyway.
        if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return faults.error(here, "a URL of keys holds no user name or password");
        }
        if url.len() > 2048 {
            return faults
                .error(here, format!("a URL of keys has at most 2048 characters, this one has {}", url.len()));
        }
        match (parsed.scheme_str(), parsed.host()) {
            (Some("https"), Some(_)) => {}
            (Some("http"), Some(host)) => {
                let host = host.trim_matches(['[', ']']);
                let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
                if !loopback {
                    faults.warning(
                        here,
                        format!("{url} is fetched in cleartext: whoever is on the way chooses the keys"),
                    );
                }
                // Metadata in cleartext may still lead to keys behind TLS.
                if self.ca.is_some() && self.discovery.is_none() {
                    faults.error(&at.key("ca"), "has no meaning for an http URL");
                }
            }
            _ => faults.error(here, format!("{url:?} is not an absolute http or https URL")),
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
        let own_fields = self.claims_to_headers.keys().chain(self.identity_token.iter().map(|token| &token.header));
        places::validate(&self.token_from, own_fields, &at.key("token_from"), faults);
        scopes::validate(&self.scopes, &at.key("scopes"), faults);
        predicates::compile(&self.claims, &at.key("claims"), faults);
        if let Some(step_up) = &self.step_up {
            step_up.validate(&at.key("step_up"), faults);
        }
        if self.optional {
            self.warn_of_what_is_optional(at, faults);
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

    fn warn_of_what_is_optional(&self, at: &Path, faults: &mut Faults) {
        let scopes = &self.scopes;
        let asks = [
            ("scopes", !(scopes.all.is_empty() && scopes.any.is_empty() && scopes.none.is_empty())),
            ("claims", !self.claims.is_empty()),
            ("step_up", self.step_up.is_some()),
        ];
        for (what, _) in asks.into_iter().filter(|(_, is_asked)| *is_asked) {
            faults.warning(&at.key(what), "the token is optional: whoever sends none is not held to this");
        }
    }

    /// The issuers named, by either key.
    pub(crate) fn issuer_names(&self) -> impl Iterator<Item = &IssuerName> {
        self.issuer.iter().chain(&self.issuers)
    }
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
