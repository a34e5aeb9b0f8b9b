//! The metrics page: one registry for the process, with a part for each unit.
//!
//! A unit registers names without prefix in the part it is handed; the root gives it `sluice_<unit>_`. What is about the
//! gateway as a whole stands at the root as `sluice_…`, what is about the process has the names that Prometheus's own
//! client libraries use, so that existing dashboards find it. When all units are made, the root is frozen into the page
//! that the admin's door shows.

use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sluice_vocabulary::ports::MetricsPage;

use crate::process::Process;

/// The registry while the gateway is composed.
#[derive(Debug, Default)]
pub struct MetricsRoot {
    registry: Registry,
}

impl MetricsRoot {
    /// A registry that knows of the build and of the process.
    pub fn new(version: &str) -> Self {
        let mut root = Self::default();
        let build = [
            ("version", version.to_owned()),
            ("arch", std::env::consts::ARCH.to_owned()),
            ("profile", if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
        ];
        root.gateway().register(
            "build",
            "What is running: version, architecture, build profile",
            Info::new(build.to_vec()),
        );
        root.registry.register_collector(Box::new(Process::new()));
        root
    }

    /// The part for what is about the gateway as a whole: names get the prefix `sluice_`.
    pub fn gateway(&mut self) -> &mut Registry {
        self.registry.sub_registry_with_prefix("sluice")
    }

    /// The part for a unit: names get the prefix `sluice_<unit>_`.
    pub fn unit(&mut self, unit: &str) -> &mut Registry {
        self.registry.sub_registry_with_prefix(format!("sluice_{unit}"))
    }

    /// The page of all that was registered.
    pub fn freeze(self) -> Arc<dyn MetricsPage> {
        Arc::new(Page(self.registry))
    }
}

struct Page(Registry);

impl MetricsPage for Page {
    fn encode(&self) -> String {
        let mut page = String::with_capacity(64 * 1024);
        // Writing into a string fails only where a metric's own encoding does; what was written before is still true.
        if text::encode(&mut page, &self.0).is_err() {
            tracing::error!("a metric could not be encoded; the page is cut short");
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn a_units_names_carry_its_prefix() {
        let mut root = MetricsRoot::new("1.2.3");
        let counter: Counter = Counter::default();
        root.unit("auth").register("verifications", "Tokens verified", counter.clone());
        counter.inc();
        let page = root.freeze().encode();
        assert!(page.contains("\nsluice_auth_verifications_total 1\n"), "{page}");
        assert!(page.contains("sluice_build_info{version=\"1.2.3\""), "{page}");
        assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
