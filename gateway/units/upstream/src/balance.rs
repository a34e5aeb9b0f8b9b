//! Choosing among endpoints.
//!
//! Weights are worked out once per set of endpoints, into a schedule: a list of indices in which each endpoint stands as
//! often as its weight says, spread as evenly as can be (the smooth weighted round robin of nginx). Round robin walks it
//! with one shared counter; the other two take their chances from it, so that weights hold there too.
//!
//! Least requests and least latency compare two endpoints taken by chance rather than all: nearly as good, and gateways
//! that see the same figures do not all run to the same endpoint.

use std::time::Duration;

use sluice_vocabulary::clock::Random;

use crate::endpoint::Endpoint;

/// As long as a schedule gets; weights that would need more are rounded.
const LONGEST: usize = 4_096;

/// The order in which endpoints of these weights take their turns.
pub(crate) fn schedule(weights: &[u16]) -> Box<[u16]> {
    let divisor = weights.iter().map(|weight| u64::from(*weight)).fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight) / divisor).sum();
    let longest = LONGEST as u64;
    let weights: Vec<i64> = weights
        .iter()
        .map(|weight| {
            let weight = u64::from(*weight) / divisor;
            let weight = if sum > longest { (weight * longest / sum).max(1) } else { weight };
            i64::try_from(weight).unwrap_or(1)
        })
        .collect();
    let total: i64 = weights.iter().sum();
    // In each round everyone gains its weight, the richest has its turn and pays the total.
    let mut wealth = vec![0_i64; weights.len()];
    let turns = (0..total).filter_map(|_| {
        for (wealth, weight) in wealth.iter_mut().zip(&weights) {
            *wealth += weight;
        }
        // The first of equals, so that the order of the configuration shows.
        let richest = (0..wealth.len()).rev().max_by_key(|index| wealth[*index])?;
        wealth[richest] -= total;
        u16::try_from(richest).ok()
    });
    turns.collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Two different turns of the schedule by chance, as indices of endpoints; the same one twice where there is no other.
pub(crate) fn two(schedule: &[u16], random: &dyn Random) -> (usize, usize) {
    let take = || {
        let turn = random.below(schedule.len() as u64);
        usize::from(schedule[usize::try_from(turn).unwrap_or(0)])
    };
    let first = take();
    // With few endpoints the same one comes often; a few more tries are cheaper than drawing without replacement.
    let second = (0..4).map(|_| take()).find(|second| *second != first).unwrap_or(first);
    (first, second)
}

/// Lower is better.
pub(crate) fn requests(endpoint: &Endpoint) -> f64 {
    f64::from(endpoint.state.active() + 1) / f64::from(endpoint.weight)
}

/// Lower is better: how long a request sent now would take to come back, were those under way served one by one.
///
/// An endpoint that has not answered yet is taken for as fast as its round trip and no slower, so that it is tried; the
/// requests under way keep it from being flooded.
pub(crate) fn latency(endpoint: &Endpoint, round_trip: Option<Duration>) -> f64 {
    let network = round_trip.unwrap_or_default();
    // The average holds the round trip already; it counts as a floor, since responses from before a path grew longer say less.
    let expected = endpoint.state.latency.average().unwrap_or_default().max(network).max(Duration::from_micros(100));
    expected.as_secs_f64() * f64::from(endpoint.state.active() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_interleave_smoothly() {
        assert_eq!(&*schedule(&[1, 1, 1]), &[0, 1, 2]);
        assert_eq!(&*schedule(&[5, 1, 1]), &[0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(&*schedule(&[100, 200]), &[1, 0, 1]);
        assert!(schedule(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn each_endpoint_has_its_share_and_none_is_left_out(weights in prop::collection::vec(1_u16..=1000, 1..40)) {
            let schedule = schedule(&weights);
            prop_assert!(schedule.len() <= LONGEST + weights.len());
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (index, weight) in weights.iter().enumerate() {
                let turns = schedule.iter().filter(|turn| usize::from(**turn) == index).count();
                prop_assert!(turns >= 1);
                let share = turns as f64 / schedule.len() as f64;
                let wanted = f64::from(*weight) / sum;
                prop_assert!((share - wanted).abs() < 0.012, "{share} for {wanted}");
            }
        }
    }
}
