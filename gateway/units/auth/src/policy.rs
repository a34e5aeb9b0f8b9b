//! What one route asks of a token, compiled when the configuration is read.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use sluice_vocabulary::limiter::KeyedLimiter;
use sluice_vocabulary::{Faults, Identity, Path, Reason, Refusal};
use smallvec::SmallVec;

use crate::binding::SenderConstraint;
use crate::cache::TokenCache;
use crate::challenge::Challenges;
use crate::config::{Credentials, RouteAuth, Scopes, identity_header};
use crate::dpop::Dpop;
use crate::introspection::Introspector;
use crate::issue::{Mint, Spec};
use crate::issuer::Issuer;
use crate::metrics::Verifications;
use crate::places::{Place, Places, Withheld, WithheldCookie, WithheldParameter};
use crate::predicates::{self, Predicate};
use crate::proof::{Anonymous, Proof};
use crate::refusals::RouteOutcomes;
use crate::revocation::Revocations;
use crate::scopes::{ScopeRules, Verdict};
use crate::step_up::Demand;
use crate::witness::{Step, Witness};

/// The longest header that a claim may become; a longer one is left out.
const MAX_HEADER: usize = 8 * 1024;

/// What all policies of one configuration share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cache: Arc<TokenCache>,
    pub(crate) limiter: Option<Arc<KeyedLimiter<IpAddr>>>,
    pub(crate) challenges: Challenges,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) dpop: Dpop,
    /// Makes identity tokens; none before the first configuration, when there is no policy either.
    pub(crate) mint: Option<Arc<Mint>>,
    /// The longest token looked at.
    pub(crate) longest: usize,
}

/// What a route asks of a token. Made by [`crate::Prepared::policy`]; a request keeps the one it began with.
#[derive(Debug)]
pub struct Policy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) issuers: SmallVec<[Arc<Issuer>; 1]>,
    /// The issuer that is asked about tokens which are none of those above.
    pub(crate) introspection: Option<Arc<Introspector>>,
    /// Where its tokens are.
    pub(crate) places: Places,
    outcomes: RouteOutcomes,
    optional: bool,
    scopes: ScopeRules,
    /// The same by name, for explanations.
    pub(crate) wanted_scopes: Scopes,
    pub(crate) predicates: Box<[Predicate]>,
    pub(crate) step_up: Option<Demand>,
    credentials: Credentials,
    headers: Box<[(HeaderName, Box<str>)]>,
    pub(crate) sender_constraint: SenderConstraint,
    identity_token: Option<Arc<Spec>>,
    /// The challenge to a token without the scopes.
    insufficient_scope: HeaderValue,
    /// The challenge to a token that is refused by a rule which is nobody's business.
    not_allowed: HeaderValue,
}

impl Policy {
    /// Compiles what was validated.
    pub(crate) fn new(
        wanted: &RouteAuth,
        issuers: SmallVec<[Arc<Issuer>; 1]>,
        introspection: Option<Arc<Introspector>>,
        identity_token: Option<Arc<Spec>>,
        shared: Arc<Shared>,
        outcomes: RouteOutcomes,
    ) -> Self {
        let header = |(header, claim): (&String, &String)| Some((identity_header(header).ok()?, claim.as_str().into()));
        let told = wanted.scopes.all.iter().chain(&wanted.scopes.any).map(String::as_str);
        Self {
            issuers,
            introspection,
            places: Places::new(&wanted.token_from),
            outcomes,
            optional: wanted.optional,
            scopes: ScopeRules::new(&wanted.scopes),
            wanted_scopes: wanted.scopes.clone(),
            // Its faults were told before.
            predicates: predicates::compile(&wanted.claims, &Path::root(), &mut Faults::new()),
            step_up: wanted.step_up.as_ref().map(|wanted| Demand::new(wanted, &shared.challenges)),
            credentials: wanted.credentials,
            sender_constraint: wanted.sender_constraint,
            identity_token,
            headers: wanted.claims_to_headers.iter().filter_map(header).collect(),
            insufficient_scope: shared.challenges.insufficient_scope(told),
            not_allowed: shared.challenges.not_allowed(),
            shared,
        }
    }

    /// Whether a token need not be shown.
    pub(crate) fn is_optional(&self) -> bool {
        self.optional
    }

    /// Whether an issuer of the route shares a secret with the operator.
    pub(crate) fn has_secrets(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.has_secrets())
    }

    /// Judges a good token: first what another authentication would not mend, so that no user is sent to log in for
    /// nothing.
    pub(crate) fn judge<W: Witness>(&self, identity: &Identity, now: u64, witness: &mut W) -> Result<(), Refusal> {
        witness.begin(Step::Scopes);
        match self.asks_for_scopes() {
            true => witness.note(|| self.explain_scopes(identity)),
            false => witness.skip(&[Step::Scopes], "the route asks for none"),
        }
        match self.scopes.judge(identity.scopes()) {
            Verdict::Enough => {}
            Verdict::Missing => {
                return Err(Refusal::new(Reason::ScopeMissing)
                    .header(WWW_AUTHENTICATE, self.insufficient_scope.clone())
                    .internal("the token's scopes do not meet the route's"));
            }
            Verdict::Forbidden => return Err(self.not_allowed("the token has a scope that the route forbids".into())),
        }
        witness.begin(Step::Claims);
        if self.predicates.is_empty() {
            witness.skip(&[Step::Claims], "the route has no rules on claims");
        }
        if let Some(index) = self.predicates.iter().position(|predicate| !predicate.holds(identity.claims())) {
            return Err(self.not_allowed(format!("the token's claims do not meet claims[{index}] of the route")));
        }
        witness.note(|| format!("as all {} rules of the route say", self.predicates.len()));
        match &self.step_up {
            None => {
                witness.skip(&[Step::Authentication], "the route does not ask how the user was authenticated");
                Ok(())
            }
            Some(demand) => {
                witness.begin(Step::Authentication);
                let issuer = self.issuers.iter().find(|issuer| issuer.name == identity.issuer);
                demand.judge(identity.claims(), now, issuer.map_or(0, |issuer| issuer.rules.leeway))?;
                witness.note(|| "the user was authenticated as the route demands".to_owned());
                Ok(())
            }
        }
    }

    fn not_allowed(&self, why: String) -> Refusal {
        Refusal::new(Reason::TokenNotAllowed).header(WWW_AUTHENTICATE, self.not_allowed.clone()).internal(why)
    }

    /// Judges a request without a token; it is counted where it `serves` one.
    pub(crate) fn judge_nothing(&self, serves: bool) -> Result<Proof, Refusal> {
        let anonymous = Anonymous::allowed_by(self).ok_or_else(|| self.missing())?;
        if serves {
            self.outcomes.anonymous();
        }
        Ok(Proof::Anonymous(anonymous))
    }

    /// The answer to a request without a token: a challenge of each scheme that the route takes.
    fn missing(&self) -> Refusal {
        let dpop = |refusal: Refusal| refusal.header(WWW_AUTHENTICATE, self.shared.dpop.bare_challenge());
        match self.sender_constraint {
            // A route that demands nothing says so by the scheme that everybody has, though it takes DPoP too.
            SenderConstraint::None | SenderConstraint::Mtls => self.shared.challenges.missing(),
            SenderConstraint::Dpop => dpop(Refusal::new(Reason::TokenMissing)),
            SenderConstraint::Any => dpop(self.shared.challenges.missing()),
        }
    }

    /// Counts a refusal and tells the operator of it, before the client hears.
    pub(crate) fn refuse(&self, refusal: Refusal, counters: &Verifications, now: u64) -> Refusal {
        self.outcomes.refused(refusal.reason);
        counters.refused(self.outcomes.route(), &refusal, now);
        refusal
    }

    /// Whether `proof` is enough for this route: a verified token is, and where the token is optional, so is its absence.
    pub fn is_met_by(&self, proof: Option<&Proof>) -> bool {
        match proof {
            Some(Proof::Verified(_)) => true,
            Some(Proof::Anonymous(_)) => self.optional,
            None => false,
        }
    }

    /// What of the request goes no further than here, now that `proof` was taken from it: see [`Credentials::Strip`].
    pub fn withheld(&self, proof: &Proof) -> Withheld<'_> {
        // A proof of possession says nothing to who may not see what it is a proof for.
        static TOKEN: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("dpop")];
        if self.credentials == Credentials::Pass {
            return Withheld::Nothing;
        }
        match self.place_of(proof) {
            None => Withheld::Nothing,
            Some(Place::Authorization) => Withheld::Fields(&TOKEN),
            Some(Place::Header(name)) => Withheld::Fields(std::slice::from_ref(name)),
            Some(Place::Cookie(name)) => Withheld::Cookie(WithheldCookie(name)),
            Some(Place::Query(name)) => Withheld::Parameter(WithheldParameter(name)),
        }
    }

    /// Whether an answer to the request that `proof` was taken from is for its client alone: the token was in the URL, so
    /// that a shared cache could hand to others what is meant for who has it (RFC 6750 section 2.3).
    pub fn wants_private_answer(&self, proof: &Proof) -> bool {
        matches!(self.place_of(proof), Some(Place::Query(_)))
    }

    fn place_of(&self, proof: &Proof) -> Option<&Place> {
        match proof {
            Proof::Verified(verified) => self.places.get(verified.place()),
            Proof::Anonymous(_) => None,
        }
    }

    /// The header fields that this policy lets nobody but the gateway set.
    pub(crate) fn own_headers(&self) -> impl Iterator<Item = &HeaderName> {
        // A client's `Authorization` is what its token is read from; the upstream gets the gateway's in its place.
        let token = self.identity_token.iter().map(|spec| &spec.header).filter(|name| **name != AUTHORIZATION);
        self.headers.iter().map(|(name, _)| name).chain(token)
    }

    /// The header fields that tell the upstream who sent the request: claims, and an identity token signed by the gateway,
    /// as the route asks; none for who is anonymous. A claim that is absent, or that cannot be written safely, has none
    /// either: see [`Handle::stripped_headers`](crate::Handle::stripped_headers),
    /// without which a client could add it.
    ///
    /// A string, number or boolean stands as it is, an array of strings is joined by commas, anything else is JSON. Left
    /// out are control characters, commas within an array's strings, and values over 8 KiB.
    pub fn identity_headers<'p>(
        &'p self,
        proof: &'p Proof,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<'p> {
        proof.identity().into_iter().flat_map(|identity| {
            let claims = self.headers.iter().filter_map(|(name, claim)| {
                let claim = identity.claim(claim)?;
                Some((name.clone(), HeaderValue::from_bytes(render(&claim)?.as_bytes()).ok()?))
            });
            let wanted = self.shared.mint.as_ref().zip(self.identity_token.as_ref());
            claims.chain(wanted.and_then(|(mint, spec)| mint.token(spec, identity)))
        })
    }
}

/// A claim as header text, if it can be one without becoming something else on the way.
fn render(claim: &Value) -> Option<Cow<'_, str>> {
    let text: Cow<'_, str> = match claim {
        Value::Null => return None,
        Value::String(text) => text.as_str().into(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Number(number) => number.to_string().into(),
        Value::Array(elements) if elements.iter().all(Value::is_string) => {
            let mut joined = String::new();
            for element in elements.iter().filter_map(Value::as_str) {
                if element.contains(',') {
                    // Whoever splits it would find more elements than the issuer wrote.
                    return None;
                }
                if !joined.is_empty() {
                    joined.push(',');
                }
                joined.push_str(element);
            }
            joined.into()
        }
        Value::Array(_) | Value::Object(_) => serde_json::to_string(claim).ok()?.into(),
    };
    (text.len() <= MAX_HEADER && !text.contains(char::is_control)).then_some(text)
}

/// Header fields that only the gateway may set: a client's own are removed, on every route.
#[derive(Debug, Clone, Default)]
pub struct StrippedHeaders(Arc<[HeaderName]>);

impl StrippedHeaders {
    pub(crate) fn new(names: Vec<HeaderName>) -> Self {
        Self(names.into())
    }

    /// The names, as configured.
    pub fn names(&self) -> &[HeaderName] {
        &self.0
    }

    /// Whether a client's field `name` must go. `_` counts as `-`: many an application server makes `HTTP_X_USER` of both
    /// `x-user` and `x_user`.
    pub fn covers(&self, name: &HeaderName) -> bool {
        let same = |own: u8, theirs: u8| own == theirs || (matches!(own, b'-' | b'_') && matches!(theirs, b'-' | b'_'));
        self.0.iter().any(|own| {
            let (own, theirs) = (own.as_str().as_bytes(), name.as_str().as_bytes());
            own.len() == theirs.len() && own.iter().zip(theirs).all(|(own, theirs)| same(*own, *theirs))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_becomes_a_header_only_where_it_keeps_its_meaning() {
        let of = |claim: Value| render(&claim).map(Cow::into_owned);
        assert_eq!(of(json!("acme")).as_deref(), Some("acme"));
        assert_eq!(of(json!("José")).as_deref(), Some("José"));
        assert_eq!(of(json!(42)).as_deref(), Some("42"));
        assert_eq!(of(json!(-1.5)).as_deref(), Some("-1.5"));
        assert_eq!(of(json!(false)).as_deref(), Some("false"));
        assert_eq!(of(json!(["a", "b"])).as_deref(), Some("a,b"));
        assert_eq!(of(json!([])).as_deref(), Some(""));
        assert_eq!(of(json!(["a", 1])).as_deref(), Some(r#"["a",1]"#));
        assert_eq!(of(json!({"a": [1]})).as_deref(), Some(r#"{"a":[1]}"#));
        for refused in [
            json!(null),
            json!("a\r\nx: y"),
            json!("a\tb"),
            json!("a\u{7f}"),
            json!("a\u{85}"),
            json!(["a,b"]),
            json!(["a\n"]),
            json!("x".repeat(8193)),
            json!({"a": "\u{7f}"}),
        ] {
            assert_eq!(of(refused.clone()), None, "{refused}");
        }
    }

    #[test]
    fn a_client_cannot_smuggle_an_identity_header_by_another_spelling() {
        let stripped = StrippedHeaders::new(vec![HeaderName::from_static("x-user-id")]);
        for name in ["x-user-id", "X-User-Id", "x_user_id", "x-user_id"] {
            assert!(stripped.covers(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
        }
        for name in ["x-user", "x-user-idx", "xxuser-id", "x.user.id"] {
            assert!(!stripped.covers(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
        }
    }
}
