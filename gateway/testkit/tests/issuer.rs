//! The kit's tokens mean to an independent verifier what the kit says they mean.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm as Alg, DecodingKey, TokenData, Validation, decode, decode_header};
use serde_json::Value;
use sluice_testkit::{Algorithm, Issuer, Jwks, client, issuer};

/// Verifies a token as a careful relying party would, with the keys the issuer serves now.
async fn verify(issuer: &Issuer, algorithm: Alg, token: &str) -> Result<TokenData<Value>, ErrorKind> {
    let keys: JwkSet = client().get(issuer.jwks_url()).send().await.json_as();
    let header = decode_header(token).map_err(|error| error.kind().clone())?;
    let key = keys.find(header.kid.as_deref().unwrap()).expect("the key that the token names");
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&["edge"]);
    validation.set_issuer(&[issuer.name()]);
    validation.validate_nbf = true;
    validation.leeway = 0;
    decode(token, &DecodingKey::from_jwk(key).unwrap(), &validation).map_err(|error| error.kind().clone())
}

#[tokio::test]
async fn a_token_of_every_algorithm_verifies_with_the_served_keys() {
    let issuer = issuer().run().await;
    for (own, theirs) in [
        (Algorithm::RS256, Alg::RS256),
        (Algorithm::RS384, Alg::RS384),
        (Algorithm::RS512, Alg::RS512),
        (Algorithm::PS256, Alg::PS256),
        (Algorithm::PS384, Alg::PS384),
        (Algorithm::PS512, Alg::PS512),
        (Algorithm::ES256, Alg::ES256),
        (Algorithm::ES384, Alg::ES384),
        (Algorithm::EdDSA, Alg::EdDSA),
    ] {
        let token = issuer.token().algorithm(own).subject("a").scopes(&["x", "y"]).tenant("acme").sign();
        let claims = verify(&issuer, theirs, &token).await.unwrap_or_else(|error| panic!("{own:?}: {error:?}")).claims;
        assert_eq!((&claims["sub"], &claims["scope"], &claims["tenant"]), (&"a".into(), &"x y".into(), &"acme".into()));
    }
}

#[tokio::test]
async fn public_keys_in_pem_verify_as_well() {
    let issuer = issuer().run().await;
    let mut validation = Validation::new(Alg::ES256);
    validation.set_audience(&["edge"]);
    let keys = issuer.keys();
    let key = keys.iter().find(|key| key.fits(Algorithm::ES256)).unwrap();
    let pem = DecodingKey::from_ec_pem(key.public_pem().as_bytes()).unwrap();
    decode::<Value>(issuer.token().algorithm(Algorithm::ES256).sign(), &pem, &validation).unwrap();
}

#[tokio::test]
async fn each_bad_token_is_bad_in_its_own_way() {
    let issuer = issuer().run().await;
    let token = issuer.token();
    let refused = async |bad: String| verify(&issuer, Alg::RS256, &bad).await.unwrap_err();
    assert_eq!(refused(token.forged()).await, ErrorKind::InvalidSignature);
    assert_eq!(refused(token.tampered()).await, ErrorKind::InvalidSignature);
    assert_eq!(refused(token.signed_by_stranger()).await, ErrorKind::InvalidSignature);
    assert_eq!(refused(token.confused()).await, ErrorKind::InvalidAlgorithm);
    assert!(matches!(refused(token.unsigned()).await, ErrorKind::Json(_)), "`none` is no algorithm at all");
    assert_eq!(refused(token.clone().expires_in(-1).sign()).await, ErrorKind::ExpiredSignature);
    assert_eq!(refused(token.clone().not_before_in(60).sign()).await, ErrorKind::ImmatureSignature);
    assert_eq!(refused(token.clone().audience("other").sign()).await, ErrorKind::InvalidAudience);
    assert_eq!(refused(token.clone().issued_by("other").sign()).await, ErrorKind::InvalidIssuer);
    assert_eq!(refused(token.clone().without("exp").sign()).await, ErrorKind::MissingRequiredClaim("exp".to_owned()));
}

#[tokio::test]
async fn rotation_replaces_keys_and_identifiers() {
    let issuer = issuer().run().await;
    let before = issuer.token();
    let old_names: Vec<String> = issuer.keys().iter().map(|key| key.kid().to_owned()).collect();
    issuer.rotate();
    assert!(issuer.keys().iter().all(|key| !old_names.contains(&key.kid().to_owned())));
    verify(&issuer, Alg::RS256, &issuer.token().sign()).await.expect("a new token to verify");
    let new_name = issuer.keys()[0].kid().to_owned();
    let old_key_under_new_name = before.kid(&new_name).sign();
    assert_eq!(verify(&issuer, Alg::RS256, &old_key_under_new_name).await.unwrap_err(), ErrorKind::InvalidSignature);
}

#[tokio::test]
async fn the_key_endpoint_misbehaves_on_demand() {
    let issuer = issuer().algorithms(&[Algorithm::ES256]).run().await;
    let ask = || client().get(issuer.jwks_url());
    issuer.serve(&Jwks::Status(500));
    assert_eq!(ask().send().await.status, 500);
    issuer.serve(&Jwks::Lie("{\"keys\": 7}".to_owned()));
    assert_eq!(ask().send().await.json()["keys"], 7);
    issuer.serve(&Jwks::Huge(100 << 20));
    let huge = ask().try_stream().await.unwrap();
    assert_eq!(huge.headers()["content-length"], (100 << 20).to_string());
    issuer.serve(&Jwks::Reset);
    assert!(ask().try_send().await.is_err());
    issuer.serve(&Jwks::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(50), ask().try_send()).await.is_err());
    issuer.serve(&Jwks::Honest);
    assert_eq!(ask().send().await.json(), issuer.jwks());
    assert_eq!(issuer.jwks_requests(), 6);
}
