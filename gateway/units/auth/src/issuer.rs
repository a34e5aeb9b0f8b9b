//! One issuer, compiled from its configuration: what its tokens must be like, and its keys.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use sluice_vocabulary::IssuerName;
use sluice_vocabulary::claims::Claims;
use sluice_vocabulary::clock::Clock;

use crate::algorithm::AlgorithmSet;
use crate::claims::{self, Rules};
use crate::config::{DiscoveryConfig, IssuerConfig, TokenType};
use crate::discovery::{self, Discovery};
use crate::disk::Shelf;
use crate::error::TokenFault;
use crate::fetch::{self, FileSource, HttpClient, Source, UrlSource};
use crate::jwk::KeySet;
use crate::jws::Header;
use crate::keyring::Keyring;
use crate::metrics::IssuerMetrics;
use crate::pointer::ClaimPath;
use crate::witness::Witness;

/// An issuer. A change of its configuration makes another one, with another number.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// Never used twice in a process: it ties cached tokens to the rules they were judged by.
    pub(crate) id: u64,
    pub(crate) name: IssuerName,
    pub(crate) config: IssuerConfig,
    pub(crate) algorithms: AlgorithmSet,
    pub(crate) rules: Rules,
    /// Where its tokens name the scopes granted, if not where RFC 9068 has them.
    pub(crate) scope_claim: Option<ClaimPath>,
    pub(crate) source: Source,
    pub(crate) keyring: Keyring,
    /// Where its keys are kept for the next process, if they are.
    pub(crate) shelf: Option<Arc<Shelf>>,
    pub(crate) metrics: IssuerMetrics,
}

impl Issuer {
    /// Compiles a validated configuration; reads the CA file if there is one. Its keys are kept in `state_dir`, if any.
    /// `system_roots` is called when the system's are needed. The error is fit for the operator and is about the section
    /// `jwks`.
    pub(crate) fn new(
        id: u64,
        name: IssuerName,
        config: IssuerConfig,
        base_dir: &Path,
        state_dir: Option<&Path>,
        system_roots: &mut dyn FnMut() -> Result<Arc<RootCertStore>, String>,
        metrics: IssuerMetrics,
    ) -> Result<Self, String> {
        let jwks = &config.jwks;
        let (timeout, max_size) = (jwks.timeout.get(), jwks.max_size.as_usize());
        let metadata = match &jwks.discovery {
            Some(DiscoveryConfig::At(url)) => Some(url.clone()),
            Some(DiscoveryConfig::AtIssuer(_)) => Some(discovery::well_known(&config.issuer)?),
            None => None,
        };
        let mut client = |cleartext: bool| {
            let roots = match &jwks.ca {
                Some(ca) => Arc::new(fetch::roots_from_file(&base_dir.join(ca))?),
                // Roots cost tens of milliseconds to read, which a cleartext URL need not pay.
                None if cleartext => Arc::new(RootCertStore::empty()),
                None => system_roots()?,
            };
            HttpClient::new(roots, timeout, max_size)
        };
        let mut keyring = Keyring::new(jwks.demand_every.get(), jwks.demand_burst);
        let source = if let Some(url) = metadata {
            // Cleartext metadata may lead to keys behind TLS.
            Source::Discovered(Discovery::new(&url, &config.issuer, client(false)?, jwks.stale.get())?)
        } else if let Some(url) = &jwks.url {
            Source::Url(UrlSource::new(url, client(url.starts_with("http:"))?)?)
        } else if let Some(file) = &jwks.file {
            Source::File(FileSource::new(base_dir.join(file), timeout, max_size))
        } else if let Some(keys) = &jwks.keys {
            keyring = Keyring::fixed(keys.parse(&config.algorithms)?);
            Source::Inline
        } else {
            return Err("nothing says where the keys are".into());
        };
        // What is in a file or in the configuration is on disk already.
        let fetched = matches!(source, Source::Url(_) | Source::Discovered(_));
        let shelf = state_dir.filter(|_| fetched).map(|folder| {
            let ca = jwks.ca.as_ref().map_or("".into(), |ca| format!(" by {}", ca.display()));
            let origin = format!("{}{ca}", source.describe());
            Arc::new(Shelf::new(folder, &name, config.issuer.clone(), origin, max_size))
        });
        let issuer = Self::with_source(id, name, config, source, keyring, metrics)?;
        Ok(Self { shelf, ..issuer })
    }

    /// Compiles a validated configuration with `secrets`, which were read as `keys`.
    pub(crate) fn of_secrets(
        id: u64,
        name: IssuerName,
        config: IssuerConfig,
        keys: KeySet,
        metrics: IssuerMetrics,
    ) -> Result<Self, String> {
        let algorithms = keys.keys().iter().flat_map(|key| key.algorithms()).collect();
        let issuer = Self::with_source(id, name, config, Source::Secrets, Keyring::fixed(keys), metrics)?;
        Ok(Self { algorithms, ..issuer })
    }

    fn with_source(
        id: u64,
        name: IssuerName,
        config: IssuerConfig,
        source: Source,
        keyring: Keyring,
        metrics: IssuerMetrics,
    ) -> Result<Self, String> {
        let audiences = (!config.dangerously_accept_any_audience)
            .then(|| config.audiences.iter().map(|audience| audience.as_str().into()).collect());
        Ok(Self {
            id,
            name,
            algorithms: config.algorithms.iter().collect(),
            scope_claim: config.scope_claim.as_deref().map(ClaimPath::parse).transpose()?,
            rules: Rules { audiences, leeway: config.leeway.get().as_secs() },
            source,
            keyring,
            shelf: None,
            metrics,
            config,
        })
    }

    /// Judges whether a token's algorithm is one that its tokens have.
    pub(crate) fn judge_algorithm(&self, header: &Header<'_>) -> Result<(), TokenFault> {
        if self.algorithms.contains(header.algorithm) {
            Ok(())
        } else {
            Err(TokenFault::AlgorithmNotAllowed(header.algorithm))
        }
    }

    /// Judges whether a token says that it is of the kind that its tokens are.
    pub(crate) fn judge_type(&self, header: &Header<'_>) -> Result<(), TokenFault> {
        match self.config.token_type {
            Some(TokenType::AtJwt) if !header.is_at_jwt => Err(TokenFault::NotAtJwt),
            Some(TokenType::AtJwt) | None => Ok(()),
        }
    }

    /// Judges the claims of one of its tokens at `now`. Gives the expiry, in seconds since the epoch.
    pub(crate) fn judge_claims<W: Witness>(
        &self,
        claims: &Claims,
        now: u64,
        witness: &mut W,
    ) -> Result<u64, TokenFault> {
        let expires_at = self.rules.judge_before(claims, now, witness)?;
        match self.config.token_type {
            Some(TokenType::AtJwt) => claims::judge_access_token(claims).map(|()| expires_at),
            None => Ok(expires_at),
        }
    }

    /// Whether its keys are secrets.
    pub(crate) fn has_secrets(&self) -> bool {
        matches!(self.source, Source::Secrets)
    }

    /// Whether its secrets are `read`, which were read just now; so it is where it has none and none were.
    pub(crate) fn still_has(&self, read: Option<&KeySet>) -> bool {
        match (self.keyring.keys().as_ref(), read) {
            (Some(own), Some(read)) if self.has_secrets() => own.is_same_as(read),
            _ => !self.has_secrets() && read.is_none(),
        }
    }

    /// Whether `other` reads the same keys from the same place, and may differ in all else. Secrets are always read anew.
    pub(crate) fn has_same_keys_as(&self, other: &Self) -> bool {
        if self.has_secrets() || other.has_secrets() {
            return false;
        }
        let (own, others) = (&self.config.jwks, &other.config.jwks);
        (&own.discovery, &own.url, &own.file, &own.keys, &own.ca)
            == (&others.discovery, &others.url, &others.file, &others.keys, &others.ca)
            && (own.discovery.is_none() || self.config.issuer == other.config.issuer)
            && self.algorithms == other.algorithms
    }

    /// Takes the keys that an earlier process kept, if there are any and they may still be used, to hold them ready.
    pub(crate) fn restore(&self, clock: &dyn Clock) {
        let Some(shelf) = &self.shelf else { return };
        let stale = self.config.jwks.stale.get();
        match shelf.load(clock.unix_seconds(), stale, self.algorithms) {
            Ok(Some(kept)) => {
                // A moment before the machine's own beginning may not be expressible; then they are not used.
                if let Some(heard) = clock.now().checked_sub(kept.age) {
                    self.keyring.hold(kept.keys, heard, heard + stale);
                }
            }
            Ok(None) => {}
            Err(fault) => {
                let file = shelf.path().display();
                tracing::warn!(issuer = %self.name, %file, cause = %fault, "kept keys are not used");
            }
        }
    }

    /// For how long the keys may still be used if the issuer is not heard again; `None` where that has no end, or there
    /// are none.
    pub(crate) fn until_stale(&self, now: Instant) -> Option<Duration> {
        let heard = self.keyring.record().heard?;
        self.keyring.keys().as_ref()?;
        Some(self.config.jwks.stale.get().saturating_sub(now.saturating_duration_since(heard)))
    }
}
