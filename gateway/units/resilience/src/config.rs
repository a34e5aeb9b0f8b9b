//! What may be configured of overload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::fault::{Fault, Faults, Path};
use sluice_vocabulary::measure::Span;

/// What the gateway does when more is asked of it than it can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many requests may be in the gateway at once, over all routes and tenants; one more is refused with 503.
    /// Default: 16384. A request that waits for its upstream holds some tens of KiB, so that is a few hundred MiB at worst.
    #[schemars(range(min = 1))]
    pub max_requests_in_flight: usize,
    /// What a refused client is told to wait (`Retry-After`, in whole seconds). Default: 1s.
    pub retry_after: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_requests_in_flight: 16_384, retry_after: Span::secs(1) }
    }
}

impl Config {
    /// Reports every fault.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        if self.max_requests_in_flight == 0 {
            faults.push(
                Fault::error(
                    &at.key("max_requests_in_flight"),
                    "0 requests in flight would refuse everything: expected at least 1",
                )
                .help("leave it out for the default of 16384"),
            );
        }
        if self.retry_after.get().as_secs() == 0 || self.retry_after.get().as_secs() > 3_600 {
            faults.error(
                &at.key("retry_after"),
                format!("{} cannot be told to a client: expected 1s to 1h", self.retry_after),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_every_fault_is_told_at_once() {
        let mut faults = Faults::new();
        Config::default().validate(&Path::root(), &mut faults);
        assert!(faults.is_empty());

        Config { max_requests_in_flight: 0, retry_after: Span::millis(10) }
            .validate(&Path::root().key("overload"), &mut faults);
        let places: Vec<_> = faults.iter().map(|fault| fault.path.to_string()).collect();
        assert_eq!(places, ["overload.max_requests_in_flight", "overload.retry_after"]);
    }
}
