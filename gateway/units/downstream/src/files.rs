//! The part of checking a configuration that reads files: certificates, keys and authorities.

use sluice_vocabulary::{Fault, Faults, Path};

use crate::config::Config;
use crate::tls;

impl Config {
    /// Reads every file that the configuration names, and reports each that cannot be used, and each certificate that
    /// has expired or soon will. `at` is the document's root; paths must be resolved
    /// ([`resolve_paths`](Config::resolve_paths)). Blocking.
    pub fn check_files(&self, at: &Path, unix_seconds: u64, faults: &mut Faults) {
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(config) = &listener.tls else { continue };
            let at = at.key("listeners").index(index).key("tls");
            for (index, certificate) in config.certificates.iter().enumerate() {
                let at = at.key("certificates").index(index);
                match tls::check(certificate, unix_seconds) {
                    Ok(None) => {}
                    Ok(Some(risk)) => faults.warning(&at, risk.to_string()),
                    Err(error) => faults.push(Fault::error(&at, error.explain())),
                }
            }
            if let Some(path) = &config.client_ca
                && let Err(error) = tls::check_authorities(path)
            {
                faults.push(Fault::error(&at.key("client_ca"), error.explain()));
            }
        }
    }
}
