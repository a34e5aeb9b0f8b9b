//! A token is looked for where the route says and nowhere else; it is one or the request is refused; and what is withheld
//! from others is that token alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;

use common::*;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, JwksConfig, Policy, Proof, RouteAuth, Withheld};
use sluice_vocabulary::{Reason, Refusal};

/// The unit with one signer, and a token of it.
struct Edge {
    world: World,
    signer: Signer,
    endpoint: Endpoint,
    token: String,
}

/// What a request carries: header fields, and a query if it has one.
type Carried<'c> = (Vec<(&'c str, String)>, Option<String>);

impl Edge {
    async fn run() -> Self {
        let signer = Signer::new("k", Algorithm::EdDSA);
        let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
        let (world, _) = World::with_keys(&endpoint, &route()).await;
        let token = signer.sign(&claims());
        Self { world, signer, endpoint, token }
    }

    fn route(&self, mut auth: Value) -> Arc<Policy> {
        auth["issuer"] = json!("corp");
        let wanted: RouteAuth = serde_json::from_value(auth).unwrap();
        self.world.apply(&issuers(issuer_config(JwksConfig::from_url(self.endpoint.url()))), &wanted)
    }

    async fn ask(&self, policy: &Policy, (fields, query): &Carried<'_>) -> Result<Proof, Refusal> {
        let field = |(name, value): &(&str, String)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            headers.append(name, value);
        }
        self.world.prove_with_query(policy, &headers, query.as_deref()).await
    }

    async fn reason(&self, policy: &Policy, carried: &Carried<'_>) -> Option<Reason> {
        self.ask(policy, carried).await.err().map(|refusal| refusal.reason)
    }
}

fn everywhere() -> Value {
    json!([{"header": "authorization"}, {"header": "X-Token"}, {"cookie": "token"}, {"query": "access_token"}])
}

/// A request with `token` in each of the places of [`everywhere`].
fn places(token: &str) -> [Carried<'static>; 4] {
    [
        (vec![("authorization", format!("Bearer {token}"))], None),
        (vec![("x-token", token.to_owned())], None),
        (vec![("cookie", format!("theme=dark; token={token}; lang=en"))], None),
        (vec![], Some(format!("since=5&access_token={token}&x=%2f"))),
    ]
}

#[tokio::test]
async fn a_token_passes_from_the_places_that_the_route_names_and_from_no_other() {
    let edge = Edge::run().await;
    let all = everywhere();
    for (named, place) in all.as_array().unwrap().iter().enumerate() {
        let policy = edge.route(json!({"token_from": [place]}));
        for (number, carried) in places(&edge.token).iter().enumerate() {
            let expected = (number != named).then_some(Reason::TokenMissing);
            // The second time by the cache.
            for _ in 0..2 {
                assert_eq!(edge.reason(&policy, carried).await, expected, "{place}: {carried:?}");
            }
        }
    }
    let default = edge.route(json!({}));
    for (number, carried) in places(&edge.token).iter().enumerate() {
        let expected = (number != 0).then_some(Reason::TokenMissing);
        assert_eq!(edge.reason(&default, carried).await, expected, "by default: {carried:?}");
    }
    let any = edge.route(json!({"token_from": all}));
    for carried in places(&edge.token) {
        assert_eq!(edge.reason(&any, &carried).await, None, "{carried:?}");
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_websocket_handshake_is_let_in_by_its_cookie_or_query_and_not_without() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"token_from": [{"cookie": "token"}, {"query": "access_token"}]}));
    let upgrade = |(mut fields, query): Carried<'static>| {
        fields.push(("connection", "Upgrade".to_owned()));
        fields.push(("upgrade", "websocket".to_owned()));
        (fields, query)
    };
    let [by_header, _, by_cookie, by_query] = places(&edge.token).map(upgrade);
    assert_eq!(edge.reason(&policy, &by_cookie).await, None);
    assert_eq!(edge.reason(&policy, &by_query).await, None);
    assert_eq!(edge.reason(&policy, &by_header).await, Some(Reason::TokenMissing));
    let forged = edge.token.clone() + "AAAA";
    let [_, _, by_cookie, by_query] = places(&forged).map(upgrade);
    assert_eq!(edge.reason(&policy, &by_cookie).await, Some(Reason::TokenRejected));
    assert_eq!(edge.reason(&policy, &by_query).await, Some(Reason::TokenRejected));
    edge.world.stop().await;
}

#[tokio::test]
async fn a_request_with_two_tokens_has_none() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"token_from": everywhere(), "optional": true}));
    let all = places(&edge.token);
    let mut refused = Vec::new();
    for (one, (fields, query)) in all.iter().enumerate() {
        for (more, other_query) in &all[one + 1..] {
            // The same token twice is two all the same.
            refused.push(([&fields[..], &more[..]].concat(), query.clone().or_else(|| other_query.clone())));
        }
    }
    let token = &edge.token;
    refused.push((vec![("cookie", format!("token={token}; token={token}"))], None));
    refused.push((vec![("cookie", format!("token={token}")), ("cookie", format!("token={token}"))], None));
    refused.push((vec![("cookie", format!("token={token}; token"))], None));
    refused.push((vec![("x-token", token.clone()), ("x-token", token.clone())], None));
    refused.push((vec![], Some(format!("access_token={token}&access_token={token}"))));
    refused.push((vec![], Some(format!("access_token={token}&access%5Ftoken={token}"))));
    // And what is there and is no token is not the same as nothing, though the token is optional here.
    refused.push((vec![("cookie", "token=".into())], None));
    refused.push((vec![("cookie", format!("token=\"{token}\""))], None));
    refused.push((vec![("x-token", format!("Bearer {token}"))], None));
    refused.push((vec![("x-token", String::new())], None));
    refused.push((vec![], Some("access_token=".into())));
    refused.push((vec![], Some("access_token".into())));
    refused.push((vec![], Some(format!("access_token={token}+"))));
    let count = refused.len();
    for carried in refused {
        let refusal = edge.ask(&policy, &carried).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::CredentialsMalformed, 400), "{carried:?}");
        let challenge = refusal.headers.iter().find(|(name, _)| *name == WWW_AUTHENTICATE).unwrap();
        assert!(challenge.1.to_str().unwrap().contains("error=\"invalid_request\""), "{challenge:?}");
        assert!(!format!("{refusal:?}").contains(&token[..20]), "{carried:?} leaks");
    }
    println!("{count} requests with two tokens, or none that is one");
    assert!(edge.ask(&policy, &(vec![], None)).await.is_ok(), "without any it is anonymous");
    edge.world.stop().await;
}

#[tokio::test]
async fn the_scheme_dpop_is_one_of_authorization_alone() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"token_from": everywhere()}));
    let bound = with(claims(), "cnf", json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}));
    let bound = edge.signer.sign(&bound);
    for (mut fields, query) in places(&bound).into_iter().skip(1) {
        // Whatever proof is beside it.
        fields.push(("dpop", "a.b.c".into()));
        assert_eq!(edge.reason(&policy, &(fields, query)).await, Some(Reason::SenderUnproven));
    }
    let scheme_in_cookie = (vec![("x-token", format!("DPoP {bound}"))], None);
    assert_eq!(edge.reason(&policy, &scheme_in_cookie).await, Some(Reason::CredentialsMalformed));
    edge.world.stop().await;
}

#[tokio::test]
async fn what_is_withheld_is_the_token_in_its_own_place() {
    let edge = Edge::run().await;
    let [by_authorization, by_header, by_cookie, by_query] = places(&edge.token);
    let pass = edge.route(json!({"token_from": everywhere()}));
    for carried in [&by_authorization, &by_header, &by_cookie, &by_query] {
        let proof = edge.ask(&pass, carried).await.unwrap();
        assert_eq!(pass.withheld(&proof), Withheld::Nothing);
    }
    let strip = edge.route(json!({"token_from": everywhere(), "credentials": "strip", "optional": true}));
    let proof = edge.ask(&strip, &by_authorization).await.unwrap();
    assert_eq!(strip.withheld(&proof), Withheld::Fields(&[AUTHORIZATION, HeaderName::from_static("dpop")]));
    let proof = edge.ask(&strip, &by_header).await.unwrap();
    assert_eq!(strip.withheld(&proof), Withheld::Fields(&[HeaderName::from_static("x-token")]));
    let proof = edge.ask(&strip, &by_cookie).await.unwrap();
    let Withheld::Cookie(cookie) = strip.withheld(&proof) else { panic!("a cookie") };
    let field = HeaderValue::from_str(&by_cookie.0[0].1).unwrap();
    assert_eq!(cookie.without(&field).unwrap(), "theme=dark; lang=en");
    let proof = edge.ask(&strip, &by_query).await.unwrap();
    let Withheld::Parameter(parameter) = strip.withheld(&proof) else { panic!("a parameter") };
    assert_eq!(parameter.without(by_query.1.as_deref().unwrap()).as_deref(), Some("since=5&x=%2f"));
    let anonymous = edge.ask(&strip, &(vec![("cookie", "theme=dark".into())], None)).await.unwrap();
    assert_eq!(strip.withheld(&anonymous), Withheld::Nothing);
    edge.world.stop().await;
}

#[tokio::test]
async fn an_answer_is_private_where_the_token_was_in_the_url() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"token_from": everywhere(), "optional": true}));
    for (number, carried) in places(&edge.token).iter().enumerate() {
        let proof = edge.ask(&policy, carried).await.unwrap();
        assert_eq!(policy.wants_private_answer(&proof), number == 3, "{carried:?}");
    }
    let anonymous = edge.ask(&policy, &(vec![], Some("x=1".into()))).await.unwrap();
    assert!(!policy.wants_private_answer(&anonymous));
    edge.world.stop().await;
}

#[tokio::test]
async fn parameters_that_may_hold_a_token_are_known_of_every_route() {
    let edge = Edge::run().await;
    let prepared = edge
        .world
        .handle
        .prepare(&Config::default(), &issuers(issuer_config(JwksConfig::from_url("http://127.0.0.1:1/k"))))
        .unwrap();
    assert_eq!(prepared.token_parameters().hide("access_token=a&t=b"), "access_token=a&t=b");
    for parameters in [json!([{"query": "access_token"}]), json!([{"query": "t"}, {"query": "access_token"}])] {
        let route = serde_json::from_value(json!({"issuer": "corp", "token_from": parameters})).unwrap();
        prepared.policy(&route_name("any"), &route, &sluice_vocabulary::Path::root()).unwrap();
    }
    let hidden = "access_token=[redacted]&t=[redacted]&x=c";
    assert_eq!(prepared.token_parameters().hide("access_token=a&t=b&x=c"), hidden);
    edge.world.stop().await;
}
