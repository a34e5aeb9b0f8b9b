//! One issuer, compiled from its configuration: what its tokens must be like, and its keys.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use sluice_vocabulary::IssuerName;

use crate::algorithm::AlgorithmSet;
use crate::claims::Rules;
use crate::config::IssuerConfig;
use crate::fetch::{self, FileSource, Source, UrlSource};
use crate::keyring::Keyring;
use crate::metrics::IssuerMetrics;
use crate::pointer::ClaimPath;

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
    pub(crate) metrics: IssuerMetrics,
}

impl Issuer {
    /// Compiles a validated configuration; reads the CA file if there is one. `system_roots` is called when the system's
    /// are needed. The error is fit for the operator and is about the section `jwks`.
    pub(crate) fn new(
        id: u64,
        name: IssuerName,
        config: IssuerConfig,
        base_dir: &Path,
        system_roots: &mut dyn FnMut() -> Result<Arc<RootCertStore>, String>,
        metrics: IssuerMetrics,
    ) -> Result<Self, String> {
        let jwks = &config.jwks;
        let max_size = jwks.max_size.as_usize();
        let source = match (&jwks.url, &jwks.file) {
            (Some(url), _) => {
                let roots = match &jwks.ca {
                    Some(ca) => Arc::new(fetch::roots_from_file(&base_dir.join(ca))?),
                    // Roots cost tens of milliseconds to read, which a cleartext URL need not pay.
                    None if url.starts_with("http:") => Arc::new(RootCertStore::empty()),
                    None => system_roots()?,
                };
                Source::Url(UrlSource::new(url, roots, jwks.timeout.get(), max_size)?)
            }
            (None, Some(file)) => Source::File(FileSource::new(base_dir.join(file), jwks.timeout.get(), max_size)),
            (None, None) => return Err("neither url nor file says where the keys are".into()),
        };
        let audiences = (!config.dangerously_accept_any_audience)
            .then(|| config.audiences.iter().map(|audience| audience.as_str().into()).collect());
        Ok(Self {
            id,
            name,
            algorithms: config.algorithms.iter().collect(),
            scope_claim: config.scope_claim.as_deref().map(ClaimPath::parse).transpose()?,
            rules: Rules { audiences, leeway: config.leeway.get().as_secs() },
            source,
            keyring: Keyring::new(jwks.demand_every.get(), jwks.demand_burst),
            metrics,
            config,
        })
    }

    /// Whether `other` reads the same keys from the same place, and may differ in all else.
    pub(crate) fn has_same_keys_as(&self, other: &Self) -> bool {
        let (own, others) = (&self.config.jwks, &other.config.jwks);
        (&own.url, &own.file, &own.ca) == (&others.url, &others.file, &others.ca) && self.algorithms == other.algorithms
    }
}
