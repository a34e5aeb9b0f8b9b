//! A start that starts nothing: opens the files that a configuration names, as a start would, and tells what is wrong.

use std::path::Path as FilePath;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use sluice_vocabulary::clock::{Clock, Random, SystemClock, SystemEntropy, SystemRandom};
use sluice_vocabulary::{Fault, Faults, Path};

use crate::config::Config;

/// Every fault that only opening files can show: certificates, keys, components.
pub(crate) fn rehearse(config: &Config, folder: &FilePath) -> Result<(), Vec<Fault>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| vec![Fault::error(&Path::root(), format!("no runtime could be made to check with: {e}"))])?;
    let mut faults = Vec::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    // The units are made for their checks alone; what they would count goes nowhere.
    let mut nowhere = Registry::default();
    let mut certificates = Faults::new();
    config.downstream_part().check_files(&Path::root(), clock.unix_seconds(), &mut certificates);
    faults.extend(certificates.into_vec());

    let deps = sluice_auth::Deps {
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        base_dir: folder.to_owned(),
        background: runtime.handle().clone(),
    };
    let (auth, _) = sluice_auth::Unit::new(&config.auth, deps, &mut nowhere);
    match auth.prepare(&config.auth, &config.issuers) {
        Ok(prepared) => {
            for (index, route) in config.routes.iter().enumerate() {
                let at = Path::root().key("routes").index(index);
                if let Some(wanted) = &route.auth {
                    faults.extend(prepared.policy(&route.name, wanted, &at.key("auth")).err().unwrap_or_default());
                }
                if let Some(wanted) = &route.forward_auth {
                    let made = prepared.forward_auth(&route.name, wanted, &at.key("forward_auth"));
                    faults.extend(made.err().unwrap_or_default());
                }
            }
        }
        Err(more) => faults.extend(more),
    }

    let metrics = sluice_upstream::Metrics::new(&mut nowhere);
    let (upstream, _) = sluice_upstream::new(Arc::clone(&clock), random, metrics);
    faults.extend(upstream.prepare(&config.upstreams, folder).err().unwrap_or_default());

    if !config.plugins.is_empty() {
        let deps = sluice_plugins::Deps {
            clock,
            entropy: Arc::new(SystemEntropy),
            background: runtime.handle().clone(),
            resolver: Arc::new(sluice_plugins::SystemResolver),
        };
        match sluice_plugins::Unit::new(deps, sluice_plugins::Options::default(), &mut nowhere) {
            Ok((plugins, _)) => {
                let at = Path::root().key("plugins");
                let prepared = runtime.block_on(plugins.prepare(&config.plugins, &at, folder));
                faults.extend(prepared.err().unwrap_or_default());
            }
            Err(why) => faults.push(Fault::error(&Path::root().key("plugins"), why.to_string())),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
