//! Keys, tokens and certificates, the same for every proxy.
//!
//! They are made once and kept under `.build`: sixty thousand RSA signatures take a while. Private token keys are thrown
//! away as soon as the tokens are signed.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sluice_testkit::{Algorithm, Authority, SigningKey, TokenBuilder, authority, issuer};

use crate::error::{Context, Failure, Result};
use crate::room::Room;
use crate::scenario::TokenKind;

/// `iss` of every token.
pub(crate) const ISSUER: &str = "https://id.bench.example";

/// How many tokens of each kind there are: more than any cache of the proxies is told to hold.
const TOKENS: usize = 60_000;

/// How long tokens are good for, in seconds: ten years.
const GOOD_FOR: i64 = 10 * 365 * 24 * 3600;

/// The names of a certificate of the edge.
const NAMES: &[&str] = &["bench.example", "localhost", "127.0.0.1"];

pub(crate) struct Material {
    folder: PathBuf,
    authority: Authority,
}

impl Material {
    /// Makes what is missing.
    pub(crate) fn prepare(room: &Room) -> Result<Self> {
        let folder = room.material();
        std::fs::create_dir_all(&folder).context(|| format!("cannot make {}", folder.display()))?;
        let material = Self { folder, authority: authority() };
        // The list of keys is written last, so that its presence says that everything else is complete.
        if !material.jwks_file().is_file() {
            println!("making keys and 2 × {TOKENS} tokens (once) …");
            material.make_tokens()?;
        }
        let (certificate, key) = material.authority.leaf(NAMES).write(&material.folder, "edge");
        // HAProxy wants both in one file.
        let both = read(&certificate)? + &read(&key)?;
        write(&material.folder.join("edge.pem"), &both)?;
        Ok(material)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Who signed the certificate of the edge.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn jwks(&self) -> Result<String> {
        read(&self.jwks_file())
    }

    fn jwks_file(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// The file of all tokens of a kind, one a line.
    pub(crate) fn tokens(&self, kind: TokenKind) -> PathBuf {
        self.folder.join(format!("{}.tokens", kind.stem()))
    }

    /// The first token of a kind.
    pub(crate) fn token(&self, kind: TokenKind) -> Result<String> {
        let path = self.tokens(kind);
        let tokens = read(&path)?;
        let first = tokens.lines().next().map(str::to_owned);
        first.ok_or_else(|| Failure::new(format_args!("{} is empty", path.display())))
    }

    /// The first token of a kind with another letter in the middle of its signature.
    pub(crate) fn forged(&self, kind: TokenKind) -> Result<String> {
        Ok(forged(&self.token(kind)?))
    }

    /// The claims of the first token of a kind.
    pub(crate) fn claims(&self, kind: TokenKind) -> Result<Map<String, Value>> {
        let token = self.token(kind)?;
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap_or_default());
        let claims = claims.context(|| "a token that is not base64".to_owned())?;
        serde_json::from_slice(&claims).context(|| "a token without claims".to_owned())
    }

    fn make_tokens(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start a runtime".to_owned())?;
        let corp = issuer().name(ISSUER).algorithms(&[Algorithm::RS256, Algorithm::ES256]);
        let corp = runtime.block_on(corp.run());
        let token = corp.token().scopes(&["orders:read", "orders:write"]).tenant("acme").expires_in(GOOD_FOR);
        for (kind, algorithm) in [(TokenKind::Rs256, Algorithm::RS256), (TokenKind::Es256, Algorithm::ES256)] {
            write(&self.tokens(kind), &sign_many(&token.clone().algorithm(algorithm)))?;
            let keys = corp.keys();
            let key = keys.iter().find(|key| key.fits(algorithm));
            let pem = key.map(SigningKey::public_pem).ok_or_else(|| Failure::new("an issuer without its key"))?;
            write(&self.folder.join(format!("{}.pub.pem", kind.stem())), &pem)?;
        }
        write(&self.jwks_file(), &corp.jwks().to_string())
    }
}

/// Signs [`TOKENS`] tokens that differ in subject and id, on as many threads as there are cores.
fn sign_many(token: &TokenBuilder) -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = TOKENS.div_ceil(threads);
    let sign = |from: usize| {
        let mut text = String::new();
        for number in from..TOKENS.min(from + share) {
            let token = token.clone().subject(&format!("user-{number:06}"));
            let _ = writeln!(text, "{}", token.claim("jti", format!("{number:024x}")).sign());
        }
        text
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|worker| scope.spawn(move || sign(worker * share))).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    })
}

/// The token with another letter in the middle of its signature.
fn forged(token: &str) -> String {
    let (input, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let (front, back) = signature.split_at(signature.len() / 2);
    let (letter, rest) = back.split_at(back.len().min(1));
    format!("{input}.{front}{}{rest}", if letter == "A" { "B" } else { "A" })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::forged;

    #[test]
    fn a_forged_token_differs_in_one_letter_of_its_signature() {
        assert_eq!(forged("a.b.cccc"), "a.b.ccAc");
        assert_eq!(forged("a.b.ccAc"), "a.b.ccBc");
    }
}
