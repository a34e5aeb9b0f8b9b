use std::time::Instant;
mod common;
use common::*;
use serde_json::json;
use sluice_auth::*;
#[test]
#[ignore]
fn cost() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let s = Signer::new("key-2026-01", Algorithm::RS256);
        let e = Endpoint::run(Behaviour::Serve(jwks(&[&s]))).await;
        let config = Config {
            signature_checks_per_address: None,
            token_cache: sluice_vocabulary::measure::ByteSize::mib(4),
            ..Config::default()
        };
        let all = issuers(issuer_config(JwksConfig::from_url(e.url())));
        let (world, policy) = World::start(config, &all, &route());
        world.ready().await;
        let toks: Vec<_> = (0..5000)
            .map(|i| s.sign(&with(claims(), "jti", json!(format!("b7c1b0ad-0000-4000-8000-{i:012}")))))
            .collect();
        println!("token {} bytes", toks[0].len());
        let reqs: Vec<_> = toks
            .iter()
            .map(|t| {
                let mut h = http::HeaderMap::new();
                h.insert("authorization", http::HeaderValue::try_from(format!("Bearer {t}")).unwrap());
                h
            })
            .collect();
        let ip = std::net::IpAddr::from([192, 0, 2, 1]);
        for round in 0..std::env::var("ROUNDS").map_or(3, |r| r.parse().unwrap()) {
            let t = Instant::now();
            for r in &reqs {
                world.ask(&policy, r, ip).await.unwrap();
            }
            let fresh = t.elapsed().as_nanos() as f64 / 5000.0;
            let t = Instant::now();
            for _ in 0..2_000 {
                world.ask(&policy, &reqs[4999], ip).await.unwrap();
            }
            let hit = t.elapsed().as_nanos() as f64 / 2_000.0;
            let jwk = s.jwk();
            use base64::Engine as _;
            let d =
                |n: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwk[n].as_str().unwrap()).unwrap();
            let key = aws_lc_rs::signature::RsaPublicKeyComponents { n: d("n"), e: d("e") }
                .to_parsed_public_key(&aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256)
                .unwrap();
            let sigs: Vec<_> = toks
                .iter()
                .map(|t| {
                    let (m, s) = t.rsplit_once('.').unwrap();
                    (m, base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(s).unwrap())
                })
                .collect();
            let t = Instant::now();
            for (m, s) in &sigs {
                key.verify_sig(m.as_bytes(), s).unwrap();
            }
            let raw = t.elapsed().as_nanos() as f64 / 5000.0;
            println!(
                "round {round}: fresh {fresh:.0} ns, raw {raw:.0} ns, over {:.0} ns, hit {hit:.0} ns",
                fresh - raw
            );
        }
    });
}
