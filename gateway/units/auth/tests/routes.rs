//! What a route may ask beyond a good token, and what becomes of the token: scopes, claims, step-up, optional tokens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sluice_auth::{Algorithm, IssuerConfig, JwksConfig, Policy, Proof, RouteAuth, Withheld};
use sluice_vocabulary::{Faults, Path, Reason, Refusal, Severity};

/// The unit, one signer whose keys it has, and where they come from.
struct Edge {
    world: World,
    signer: Signer,
    endpoint: Endpoint,
}

impl Edge {
    async fn run() -> Self {
        let signer = Signer::new("k", Algorithm::EdDSA);
        let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
        let (world, _) = World::with_keys(&endpoint, &route()).await;
        Self { world, signer, endpoint }
    }

    fn issuer(&self) -> IssuerConfig {
        issuer_config(JwksConfig::from_url(self.endpoint.url()))
    }

    /// Puts a route in force: `auth` is its section, without the issuer.
    fn route(&self, auth: Value) -> Arc<Policy> {
        self.world.apply(&issuers(self.issuer()), &section(auth))
    }

    /// The answer to a token that says `extra` beside what every token says. By signature and by cache it is the same.
    async fn ask(&self, policy: &Policy, extra: &Value) -> Option<Refusal> {
        let token = self.signer.sign(&claims_and(extra));
        let first = self.world.bearer(policy, &token).await.err();
        let second = self.world.bearer(policy, &token).await.err();
        assert_eq!(first.as_ref().map(|r| r.reason), second.as_ref().map(|r| r.reason), "{extra}");
        first
    }

    async fn reason(&self, policy: &Policy, extra: &Value) -> Option<Reason> {
        self.ask(policy, extra).await.map(|refusal| refusal.reason)
    }

    async fn prove(&self, policy: &Policy, authorization: Option<&str>) -> Result<Proof, Refusal> {
        let mut headers = HeaderMap::new();
        headers.extend(authorization.map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())));
        self.world.prove(policy, &headers, IpAddr::from([192, 0, 2, 9])).await
    }
}

fn section(mut auth: Value) -> RouteAuth {
    auth["issuer"] = json!("corp");
    serde_json::from_value(auth).unwrap()
}

fn claims_and(extra: &Value) -> Value {
    let mut all = claims();
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    all
}

fn challenge(refusal: &Refusal) -> &str {
    let mut values = refusal.headers.iter().filter(|(name, _)| name == WWW_AUTHENTICATE);
    let value = values.next().expect("a challenge").1.to_str().unwrap();
    assert!(values.next().is_none(), "two challenges");
    value
}

#[tokio::test]
async fn wildcards_count_where_the_route_says_so_and_nowhere_else() {
    let edge = Edge::run().await;
    let lists = json!({"all": ["tenant:prod:api:read"], "none": ["tenant:*:root"]});
    let plain = edge.route(json!({"scopes": lists}));
    assert_eq!(edge.reason(&plain, &json!({"scope": "tenant:prod:api:*"})).await, Some(Reason::ScopeMissing));
    assert_eq!(edge.reason(&plain, &json!({"scope": "*"})).await, Some(Reason::ScopeMissing));
    assert_eq!(edge.reason(&plain, &json!({"scope": "tenant:prod:api:read tenant:x:root"})).await, None);
    let hierarchical = edge.route(json!({"scopes": with(lists, "hierarchical", json!(true))}));
    assert_eq!(edge.reason(&hierarchical, &json!({"scope": "tenant:prod:api:*"})).await, None);
    assert_eq!(edge.reason(&hierarchical, &json!({"scope": ["x", "tenant:prod:api:*"]})).await, None);
    assert_eq!(edge.reason(&hierarchical, &json!({"scope": "tenant:prod:*"})).await, Some(Reason::TokenNotAllowed));
    let forbidden = edge.ask(&hierarchical, &json!({"scope": "tenant:prod:api:read tenant:x:root"})).await.unwrap();
    assert_eq!((forbidden.reason, forbidden.status().as_u16()), (Reason::TokenNotAllowed, 403));
    edge.world.stop().await;
}

#[tokio::test]
async fn an_issuers_scopes_are_in_the_claim_that_it_was_said_to_have() {
    let edge = Edge::run().await;
    let wanted = section(json!({"scopes": {"all": ["orders:read"]}}));
    let elsewhere = json!({"scope": "openid", "realm_access": {"roles": ["orders:read"]}});
    let policy = edge.world.apply(&issuers(edge.issuer()), &wanted);
    assert_eq!(edge.reason(&policy, &elsewhere).await, Some(Reason::ScopeMissing));
    for place in ["realm_access.roles", "/realm_access/roles"] {
        let issuer = IssuerConfig { scope_claim: Some(place.into()), ..edge.issuer() };
        let policy = edge.world.apply(&issuers(issuer), &wanted);
        assert_eq!(edge.reason(&policy, &elsewhere).await, None, "{place}");
        // The usual claim grants nothing then, or whoever may ask for scopes could ask for roles.
        assert_eq!(edge.reason(&policy, &json!({"scope": "orders:read"})).await, Some(Reason::ScopeMissing), "{place}");
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn every_rule_on_claims_must_hold_and_none_is_told() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"claims": [
        {"pointer": "/realm/tenant", "one_of": ["acme", "globex"]},
        {"pointer": "/groups", "contains": "secret-group"},
        {"pointer": "/email", "matches": "[^@]+@example\\.com"},
        {"pointer": "/email_verified", "equals": true},
    ]}));
    let good = json!({"realm": {"tenant": "acme"}, "groups": ["a", "secret-group"], "email": "x@example.com", "email_verified": true});
    assert_eq!(edge.reason(&policy, &good).await, None);
    for bad in [
        with(good.clone(), "realm", json!({"tenant": "initech"})),
        with(good.clone(), "realm", json!("acme")),
        with(good.clone(), "groups", json!("secret-group")),
        with(good.clone(), "email", json!("x@example.com.evil")),
        with(good.clone(), "email_verified", json!("true")),
        without(good.clone(), "email_verified"),
        json!({}),
    ] {
        let refusal = edge.ask(&policy, &bad).await.unwrap_or_else(|| panic!("{bad}"));
        assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::TokenNotAllowed, 403), "{bad}");
        assert_eq!(
            challenge(&refusal),
            r#"Bearer realm="sluice", error="insufficient_scope", error_description="The token does not allow this request""#
        );
        assert_eq!(refusal.headers.len(), 1);
        let body = String::from_utf8(refusal.problem("r")).unwrap();
        for told in ["group", "realm/", "example", "email", "claim"] {
            assert!(!body.contains(told), "{body}");
        }
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_token_ages_out_of_a_routes_max_age_though_it_is_cached() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"step_up": {"acr": ["gold", "silver"], "max_age": "5m"}}));
    let token = edge.signer.sign(&claims_and(&json!({"acr": "silver", "auth_time": NOW - 100})));
    assert_eq!(edge.world.reason(&policy, &token).await, None);
    edge.world.clock.advance(Duration::from_secs(230));
    assert_eq!(edge.world.reason(&policy, &token).await, None);
    edge.world.clock.advance(Duration::from_secs(1));
    let refusal = edge.world.bearer(&policy, &token).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::AuthenticationInsufficient, 401));
    assert_eq!(
        challenge(&refusal),
        concat!(
            r#"Bearer realm="sluice", error="insufficient_user_authentication", "#,
            r#"error_description="More recent authentication is required", acr_values="gold silver", max_age="300""#
        )
    );
    edge.world.stop().await;
}

#[tokio::test]
async fn nobody_is_sent_to_log_in_for_a_scope_or_claim_that_a_login_does_not_give() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({
        "scopes": {"all": ["admin"]}, "claims": [{"pointer": "/tenant", "equals": "acme"}], "step_up": {"acr": ["gold"]}
    }));
    let ask = async |extra: Value| edge.reason(&policy, &extra).await;
    assert_eq!(ask(json!({})).await, Some(Reason::ScopeMissing));
    assert_eq!(ask(json!({"scope": "admin", "tenant": "x"})).await, Some(Reason::TokenNotAllowed));
    assert_eq!(ask(json!({"scope": "admin"})).await, Some(Reason::AuthenticationInsufficient));
    assert_eq!(ask(json!({"scope": "admin", "acr": "gold"})).await, None);
    edge.world.stop().await;
}

#[tokio::test]
async fn where_a_token_is_optional_none_is_anonymous_and_a_bad_one_is_refused() {
    let edge = Edge::run().await;
    let auth = json!({"optional": true, "scopes": {"all": ["orders:read"]}, "claims_to_headers": {"x-user": "sub"}});
    let policy = edge.route(auth.clone());
    for nothing in [None, Some("Basic dTpw")] {
        let proof = edge.prove(&policy, nothing).await.unwrap();
        assert!(matches!(proof, Proof::Anonymous(_)) && proof.identity().is_none());
        assert!(policy.is_met_by(Some(&proof)));
        assert_eq!(policy.identity_headers(&proof).count(), 0);
        // What one route lets pass opens no other.
        let strict = edge.route(with(auth.clone(), "optional", json!(false)));
        assert!(!strict.is_met_by(Some(&proof)) && !strict.is_met_by(None));
    }
    assert!(!policy.is_met_by(None), "a request that was never asked");
    assert!(edge.world.handle.stripped_headers().covers(&"x-user".parse().unwrap()), "nobody says who he is himself");

    let good = format!("Bearer {}", edge.signer.sign(&claims()));
    let proof = edge.prove(&policy, Some(&good)).await.unwrap();
    assert!(matches!(proof, Proof::Verified(_)) && policy.is_met_by(Some(&proof)));
    assert_eq!(policy.identity_headers(&proof).count(), 1);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    for (bad, reason) in [
        ("Bearer".to_owned(), Reason::CredentialsMalformed),
        ("Bearer a b".into(), Reason::CredentialsMalformed),
        ("Bearer abc".into(), Reason::TokenMalformed),
        (forged, Reason::TokenRejected),
        (format!("Bearer {}", edge.signer.sign(&with(claims(), "exp", json!(5)))), Reason::TokenExpired),
        (format!("Bearer {}", edge.signer.sign(&with(claims(), "scope", json!("x")))), Reason::ScopeMissing),
    ] {
        assert_eq!(edge.prove(&policy, Some(&bad)).await.unwrap_err().reason, reason, "{bad}");
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_token_goes_on_to_the_upstream_unless_the_route_withholds_it() {
    let edge = Edge::run().await;
    let good = format!("Bearer {}", edge.signer.sign(&claims()));
    let names = [AUTHORIZATION, HeaderName::from_static("dpop")];
    let fields = Withheld::Fields(&names);
    for (auth, withheld) in [
        (json!({}), Withheld::Nothing),
        (json!({"credentials": "pass"}), Withheld::Nothing),
        (json!({"credentials": "strip"}), fields),
        (json!({"credentials": "strip", "optional": true}), fields),
    ] {
        let policy = edge.route(auth.clone());
        assert_eq!(policy.withheld(&edge.prove(&policy, Some(&good)).await.unwrap()), withheld, "{auth}");
    }
    // Credentials that were never looked at are not the gateway's to take.
    let policy = edge.route(json!({"credentials": "strip", "optional": true}));
    let anonymous = edge.prove(&policy, Some("Basic dTpw")).await.unwrap();
    assert_eq!(policy.withheld(&anonymous), Withheld::Nothing);
    edge.world.stop().await;
}

#[tokio::test]
async fn each_issuer_of_a_route_is_judged_by_its_own_rules() {
    let edge = Edge::run().await;
    let keys = || JwksConfig::from_url(edge.endpoint.url());
    let other = IssuerConfig {
        issuer: "https://other".into(),
        audiences: vec!["edge".into(), "ours".into()],
        scope_claim: Some("roles".into()),
        leeway: sluice_vocabulary::measure::Span::secs(0),
        ..issuer_config(keys())
    };
    let all = BTreeMap::from([(name("corp"), edge.issuer()), (name("other"), other)]);
    let wanted: RouteAuth = serde_json::from_value(json!({
        "issuers": ["corp", "other"], "scopes": {"all": ["orders:read"]}, "step_up": {"max_age": "1m"}
    }))
    .unwrap();
    let policy = edge.world.apply(&all, &wanted);
    edge.world.ready().await;
    while edge.world.metrics().contains("keys{issuer=\"other\"} 0") {
        tokio::task::yield_now().await;
    }
    let of = |extra: Value| {
        json!({"iss": "https://other", "roles": ["orders:read"]}).as_object().unwrap().iter().fold(
            extra,
            |all, (name, value)| if all.get(name).is_some() { all } else { with(all, name, value.clone()) },
        )
    };
    let ask = async |extra: Value| edge.reason(&policy, &extra).await;
    assert_eq!(ask(json!({"auth_time": NOW - 90})).await, None, "within the leeway of corp");
    assert_eq!(ask(of(json!({"auth_time": NOW - 60}))).await, None);
    assert_eq!(ask(of(json!({"auth_time": NOW - 61}))).await, Some(Reason::AuthenticationInsufficient));
    assert_eq!(ask(of(json!({"auth_time": NOW, "roles": []}))).await, Some(Reason::ScopeMissing));
    assert_eq!(ask(json!({"auth_time": NOW, "aud": "ours"})).await, Some(Reason::TokenNotForUs), "only for other");
    assert_eq!(ask(json!({"auth_time": NOW, "iss": "https://third"})).await, Some(Reason::TokenNotForUs));
    edge.world.stop().await;
}

#[tokio::test]
async fn refusals_are_counted_by_route_until_the_route_is_gone() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"optional": true, "scopes": {"none": ["orders:list"]}}));
    let at_first = edge.world.metrics();
    let series: Vec<_> = at_first.lines().filter(|line| line.starts_with("route_outcomes_total{")).collect();
    assert_eq!(series, [r#"route_outcomes_total{route="orders",outcome="token-missing"} 0"#]);
    assert_eq!(edge.reason(&policy, &json!({})).await, Some(Reason::TokenNotAllowed));
    assert_eq!(edge.reason(&policy, &json!({"scope": ""})).await, None);
    edge.prove(&policy, None).await.unwrap();
    let page = edge.world.metrics();
    for line in [
        r#"route_outcomes_total{route="orders",outcome="token-not-allowed"} 2"#,
        r#"route_outcomes_total{route="orders",outcome="anonymous"} 1"#,
        r#"verifications_total{issuer="corp",outcome="token-not-allowed"} 2"#,
        r#"verifications_total{issuer="corp",outcome="ok"} 2"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    // Under another configuration the same route counts on; without it, nothing is left.
    let policy = edge.route(json!({"scopes": {"none": ["orders:list"]}}));
    assert_eq!(edge.reason(&policy, &json!({})).await, Some(Reason::TokenNotAllowed));
    assert!(edge.world.metrics().contains(r#"{route="orders",outcome="token-not-allowed"} 4"#));
    let prepared = edge.world.handle.prepare(&edge.world.config, &issuers(edge.issuer())).unwrap();
    prepared.policy(&route_name("parcels"), &route(), &Path::root()).unwrap();
    edge.world.handle.commit(prepared);
    assert!(!edge.world.metrics().contains("route=\"orders\""), "{}", edge.world.metrics());
    assert!(edge.world.metrics().contains("route=\"parcels\""));
    // What was only prepared leaves nothing.
    let prepared = edge.world.handle.prepare(&edge.world.config, &issuers(edge.issuer())).unwrap();
    prepared.policy(&route_name("returns"), &route(), &Path::root()).unwrap();
    drop(prepared);
    assert!(!edge.world.metrics().contains("route=\"returns\""));
    edge.world.stop().await;
}

fn told(auth: Value) -> Vec<(Severity, String)> {
    let mut faults = Faults::new();
    section(auth).validate(&Path::root().key("auth"), &mut faults);
    faults.into_vec().into_iter().map(|fault| (fault.severity, fault.path.to_string())).collect()
}

#[test]
fn what_cannot_be_compiled_is_an_error_with_its_place() {
    let deep = "a:".repeat(16) + "a";
    let many: Vec<_> = (0..65).map(|number| format!("s{number}")).collect();
    let wide: Vec<_> = (0..20).map(|number| format!("{number:0>250}")).collect();
    for (auth, place) in [
        (json!({"scopes": {"all": ["a b"]}}), "auth.scopes.all[0]"),
        (json!({"scopes": {"none": ["ok", ""]}}), "auth.scopes.none[1]"),
        (json!({"scopes": {"any": ["a".repeat(257)]}}), "auth.scopes.any[0]"),
        (json!({"scopes": {"all": [deep], "hierarchical": true}}), "auth.scopes.all[0]"),
        (json!({"scopes": {"all": ["a::*"], "hierarchical": true}}), "auth.scopes.all[0]"),
        (json!({"scopes": {"none": many}}), "auth.scopes"),
        (json!({"scopes": {"any": wide}}), "auth.scopes"),
        (json!({"claims": [{"pointer": "a", "equals": 1}]}), "auth.claims[0].pointer"),
        (json!({"step_up": {}}), "auth.step_up"),
    ] {
        assert_eq!(told(auth.clone()), [(Severity::Error, place.to_owned())], "{auth}");
    }
    let mut faults = Faults::new();
    let issuer = IssuerConfig { scope_claim: Some("/a/~".into()), ..issuer_config(JwksConfig::from_file("f")) };
    issuer.validate(&Path::root(), &mut faults);
    assert_eq!(faults.into_vec()[0].path.to_string(), "scope_claim");
    for unknown in [
        json!({"claims": [{"pointer": "/a", "equal": 1}]}),
        json!({"step_up": {"amr": []}}),
        json!({"credentials": "drop"}),
    ] {
        assert!(serde_json::from_value::<RouteAuth>(unknown.clone()).is_err(), "{unknown}");
    }
}

#[test]
fn what_is_risky_or_cannot_come_true_is_a_warning() {
    for (auth, places) in [
        (json!({"scopes": {"all": ["a:*"]}}), &["auth.scopes.all[0]"][..]),
        (json!({"scopes": {"all": ["a:b*"], "hierarchical": true}}), &["auth.scopes.all[0]"]),
        (json!({"scopes": {"hierarchical": true}}), &["auth.scopes.hierarchical"]),
        (json!({"scopes": {"all": ["b", "a"], "none": ["a"]}}), &["auth.scopes.all[1]"]),
        (json!({"scopes": {"all": ["a:b"], "none": ["a:*"], "hierarchical": true}}), &["auth.scopes.all[0]"]),
        (json!({"scopes": {"any": ["a:b", "a:c"], "none": ["a:*"], "hierarchical": true}}), &["auth.scopes.any"]),
        (json!({"scopes": {"any": ["a:b", "b"], "none": ["a:*"], "hierarchical": true}}), &[]),
        (json!({"scopes": {"all": ["a:*"], "none": ["a:b"], "hierarchical": true}}), &[]),
        (json!({"optional": true}), &[]),
        (json!({"optional": true, "scopes": {"none": ["a"]}}), &["auth.scopes"]),
        (json!({"optional": true, "claims": [{"pointer": "/a", "equals": 1}]}), &["auth.claims"]),
        (json!({"optional": true, "step_up": {"acr": ["a"]}}), &["auth.step_up"]),
        (json!({"claims": [{"pointer": "/a", "equals": 1}, {"pointer": "/a", "equals": 2}]}), &["auth.claims[0]"]),
    ] {
        let expected: Vec<_> = places.iter().map(|place| (Severity::Warning, (*place).to_owned())).collect();
        assert_eq!(told(auth.clone()), expected, "{auth}");
    }
}

#[test]
fn a_route_is_written_back_as_it_was_read() {
    for auth in [
        json!({"issuer": "corp"}),
        json!({"issuer": "corp", "optional": true, "scopes": {"all": ["a:*"], "none": ["b"], "hierarchical": true},
            "claims": [{"pointer": "/a", "equals": 1}, {"pointer": "/b", "one_of": ["x", true]}, {"pointer": "/c", "matches": "x+"}],
            "step_up": {"acr": ["gold"], "max_age": "5m"}, "credentials": "strip"}),
    ] {
        let read: RouteAuth = serde_json::from_value(auth).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(serde_json::from_value::<RouteAuth>(written).unwrap(), read);
    }
}
