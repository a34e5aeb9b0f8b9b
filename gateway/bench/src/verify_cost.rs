//! What one signature check costs the crypto library itself, with a key parsed beforehand: the floor under every proxy
//! that verifies a token it has never seen.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Failure, Result};
use crate::process::{PROXY_CORE, pinned};
use crate::scenario::TokenKind;

/// How many tokens are checked, how often, and how many of them make a sample; the median sample counts. Samples are short,
/// so that on a busy machine most of them are not disturbed: this is a floor, and too high a one would make budgets easy.
const TOKENS: usize = 512;
const LAPS: usize = 9;
const SAMPLE: usize = 16;

/// Microseconds for each kind of signature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerifyCost {
    pub(crate) rs256_us: f64,
    pub(crate) es256_us: f64,
}

impl VerifyCost {
    pub(crate) fn of(&self, kind: TokenKind) -> f64 {
        match kind {
            TokenKind::Rs256 => self.rs256_us,
            TokenKind::Es256 => self.es256_us,
        }
    }
}

/// Measures in a process of its own on the core that the proxies get.
pub(crate) fn measure_pinned(folder: &Path) -> Result<VerifyCost> {
    let own = std::env::current_exe().context(|| "cannot find the running program".to_owned())?;
    let mut command: Command = pinned(PROXY_CORE, own);
    let output =
        command.arg("verify-cost").arg(folder).output().context(|| "cannot start the running program".to_owned())?;
    if !output.status.success() {
        return Err(Failure::new(String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).context(|| "odd costs of a signature check".to_owned())
}

/// Measures here and now, with the first tokens of `folder`.
pub(crate) fn measure(folder: &Path) -> Result<VerifyCost> {
    Ok(VerifyCost {
        rs256_us: cost(folder, TokenKind::Rs256, &RSA_PKCS1_2048_8192_SHA256)?,
        es256_us: cost(folder, TokenKind::Es256, &ECDSA_P256_SHA256_FIXED)?,
    })
}

fn cost(folder: &Path, kind: TokenKind, algorithm: &'static dyn VerificationAlgorithm) -> Result<f64> {
    let read = |name: String| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))
    };
    let pem = read(format!("{}.pub.pem", kind.stem()))?;
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(der).context(|| "a public key that is not PEM".to_owned())?;
    let key = ParsedPublicKey::new(algorithm, der).context(|| "a public key that does not fit".to_owned())?;
    let tokens = read(format!("{}.tokens", kind.stem()))?;
    let signed: Vec<(&str, Vec<u8>)> = tokens
        .lines()
        .take(TOKENS)
        .filter_map(|token| {
            let (input, signature) = token.rsplit_once('.')?;
            Some((input, URL_SAFE_NO_PAD.decode(signature).ok()?))
        })
        .collect();
    if signed.is_empty() {
        return Err(Failure::new(format_args!("no {} tokens", kind.algorithm())));
    }
    let mut samples = Vec::new();
    for _ in 0..LAPS {
        for tokens in signed.chunks(SAMPLE) {
            let begun = Instant::now();
            for (input, signature) in tokens {
                black_box(key.verify_sig(input.as_bytes(), signature))
                    .context(|| "a token that does not verify".to_owned())?;
            }
            samples.push(begun.elapsed().as_secs_f64() * 1e6 / tokens.len() as f64);
        }
    }
    Ok(crate::results::median(samples.into_iter()).unwrap_or(f64::NAN))
}
