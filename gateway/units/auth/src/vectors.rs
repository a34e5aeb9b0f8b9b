//! The examples of the RFCs, read and verified as the request path does it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};
use sluice_vocabulary::claims::Raw;
use sluice_vocabulary::secret::Secret;

use crate::algorithm::{Alg, Algorithm, MacAlgorithm};
use crate::base64url;
use crate::claims::{self, Rules};
use crate::error::TokenFault;
use crate::jwk::{Key, KeySet, Lookup};
use crate::jws::{Compact, Header, MAX_SIGNATURE};

/// The payload that RFC 7515 appendices A.1 to A.3 and RFC 7519 section 3.1 share.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn rfc7515_a2() -> (Value, String) {
    let key = json!({"kty": "RSA", "e": "AQAB", "n": concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMs",
        "D1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV",
        "MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ")});
    let signature = concat!(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZ",
        "cAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-e",
        "OkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    );
    (key, format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{signature}"))
}

fn rfc7515_a3() -> (Value, String) {
    let key = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                     "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    (key, format!("eyJhbGciOiJFUzI1NiJ9.{JOE}.{signature}"))
}

fn rfc7515_a4() -> (Value, String) {
    let key = json!({"kty": "EC", "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"});
    let signature = concat!(
        "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3",
        "xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
    );
    (key, format!("eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.{signature}"))
}

fn rfc8037_a4() -> (Value, String) {
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    (key, format!("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.{signature}"))
}

fn verifies(jwk: &Value, token: &str) -> bool {
    let compact = Compact::split(token.as_bytes(), 4096).unwrap();
    let header_json = base64url::decode(compact.header).unwrap();
    let header = Header::parse(&header_json).unwrap();
    let set = json!({ "keys": [jwk] }).to_string();
    let keys = KeySet::parse(set.as_bytes(), Algorithm::ALL.iter().collect()).unwrap();
    let Lookup::Candidates(candidates) = keys.lookup(None, header.algorithm) else { panic!("{:?}", keys.left_out()) };
    let mut room = [0; MAX_SIGNATURE];
    let signature = compact.decode_signature(&mut room).unwrap();
    candidates[0].verifies(header.algorithm, compact.signed, signature)
}

#[test]
fn the_signed_examples_of_the_rfcs_verify_and_their_neighbours_do_not() {
    let examples = [
        ("7515 A.2", rfc7515_a2()),
        ("7515 A.3", rfc7515_a3()),
        ("7515 A.4", rfc7515_a4()),
        ("8037 A.4", rfc8037_a4()),
    ];
    for (name, (jwk, token)) in examples {
        assert!(verifies(&jwk, &token), "RFC {name}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        for spoilt in [format!("{signed}A.{signature}"), format!("{signed}.B{}", &signature[1..])] {
            assert!(!verifies(&jwk, &spoilt), "RFC {name} spoilt");
        }
    }
}

#[test]
fn the_claims_of_the_rfcs_example_are_read_with_their_line_breaks() {
    let payload = base64url::decode(JOE.as_bytes()).unwrap();
    let claims = claims::read(payload).unwrap();
    assert_eq!(claims.raw("iss"), Some(Raw::Text("joe")));
    assert_eq!(claims.raw("http://example.com/is_root"), Some(Raw::Json("true")));
    let rules = Rules { audiences: None, leeway: 0 };
    assert_eq!(rules.judge(&claims, 1_300_819_379), Ok(1_300_819_380));
    assert_eq!(rules.judge(&claims, 1_300_819_380), Err(TokenFault::Expired { ago: 0 }));
}

/// RFC 7515 appendix A.1, which is RFC 7519 section 3.1 too: the secret and the token.
fn rfc7515_a1() -> (Secret, String) {
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let token = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    (Secret::new(base64url::decode(secret.as_bytes()).unwrap()), token)
}

#[test]
fn the_example_with_a_shared_secret_verifies_by_that_secret_and_algorithm_alone() {
    let (secret, token) = rfc7515_a1();
    let compact = Compact::split(token.as_bytes(), 4096).unwrap();
    let header = base64url::decode(compact.header).unwrap();
    let algorithm = Header::parse(&header).unwrap().algorithm;
    assert_eq!(algorithm, Alg::Mac(MacAlgorithm::HS256));
    let mac = base64url::decode(compact.signature).unwrap();
    let key = |algorithm, secret: &[u8]| Key::shared(None, algorithm, Secret::new(secret));
    assert!(key(MacAlgorithm::HS256, secret.expose()).verifies(algorithm, compact.signed, &mac));
    assert!(!key(MacAlgorithm::HS512, secret.expose()).verifies(algorithm, compact.signed, &mac));
    assert!(!key(MacAlgorithm::HS256, &secret.expose()[1..]).verifies(algorithm, compact.signed, &mac));
    assert!(!key(MacAlgorithm::HS256, secret.expose()).verifies(algorithm, &compact.signed[1..], &mac));
    assert!(!key(MacAlgorithm::HS256, secret.expose()).verifies(algorithm, compact.signed, &mac[..31]));
}

#[test]
fn the_example_without_a_signature_is_refused_by_its_header() {
    // RFC 7519 section 6.1.
    let json = base64url::decode(b"eyJhbGciOiJub25lIn0").unwrap();
    assert_eq!(Header::parse(&json), Err(TokenFault::Unsecured));
    let unsecured = format!("eyJhbGciOiJub25lIn0.{JOE}.");
    assert!(Compact::split(unsecured.as_bytes(), 4096).is_ok_and(|token| token.signature.is_empty()));
}
