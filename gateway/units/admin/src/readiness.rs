//! Whether the process may take traffic, and which unit says no.

use http::StatusCode;
use serde_json::{Value, json};
use sluice_vocabulary::unit::{Health, State};

/// The answer of `/readyz`. Fails closed: a process whose units are not known is not ready.
pub(crate) fn readiness(healths: &[Health]) -> (StatusCode, Value) {
    let states: Vec<(&'static str, State)> = healths.iter().map(|health| (health.unit(), health.get())).collect();
    let ready = !states.is_empty() && states.iter().all(|(_, state)| state.serves());
    let units: Vec<Value> = states.iter().map(|(unit, state)| described(unit, state)).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, json!({ "ready": ready, "units": units }))
}

fn described(unit: &str, state: &State) -> Value {
    match state {
        State::Starting => json!({ "unit": unit, "state": "starting" }),
        State::Ready => json!({ "unit": unit, "state": "ready" }),
        State::Degraded(reason) => json!({ "unit": unit, "state": "degraded", "reason": reason }),
        State::Unavailable(reason) => json!({ "unit": unit, "state": "unavailable", "reason": reason }),
        State::Stopped => json!({ "unit": unit, "state": "stopped" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unit_that_does_not_serve_makes_the_process_not_ready() {
        assert_eq!(readiness(&[]).0, StatusCode::SERVICE_UNAVAILABLE);
        let (auth, routing) = (Health::new("auth"), Health::new("routing"));
        let both = [auth.clone(), routing.clone()];
        assert_eq!(readiness(&both).0, StatusCode::SERVICE_UNAVAILABLE);
        auth.set(State::Ready);
        routing.set(State::Degraded("old configuration".to_owned()));
        let (status, page) = readiness(&both);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            page,
            json!({ "ready": true, "units": [
                { "unit": "auth", "state": "ready" },
                { "unit": "routing", "state": "degraded", "reason": "old configuration" }
            ] })
        );
        for state in [State::Unavailable(String::new()), State::Stopped] {
            auth.set(state);
            assert_eq!(readiness(&both).0, StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
