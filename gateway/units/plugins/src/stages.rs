//! Which plugins take an undue part of the gateway's own time.
//!
//! Nothing is measured for this: the durations of all phases and what the gateway adds to requests are summed up anyway.
//! Here the sums are looked at every ten seconds. A plugin that took more than two fifths of the gateway's own time in each
//! of three windows in a row is reported by name, once, and once more when three windows in a row were good: a burst is
//! not a state. What the gateway adds includes the time in which an answer's body goes by, so that long bodies make the
//! part of a plugin smaller than it was, never larger.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sluice_vocabulary::PluginName;

/// Between two looks.
const WINDOW: Duration = Duration::from_secs(10);
/// The part of the gateway's own time above which a plugin's is undue, from 0 to 1.
const UNDUE: f64 = 0.4;
/// Windows in a row that make a state, and end it.
const IN_A_ROW: u32 = 3;
/// A window in which the gateway was busy for less tells nothing, and counts as good.
const LEAST: Duration = Duration::from_millis(10);

/// What the watch says of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Part {
    /// Of the gateway's own time in the last whole window, from 0 to 1.
    pub(crate) share: f64,
    /// Whether it is reported.
    pub(crate) is_slow: bool,
}

/// A plugin whose report begins or ends.
#[derive(Debug, PartialEq)]
pub(crate) struct Turned {
    pub(crate) plugin: PluginName,
    pub(crate) part: Part,
}

/// The sums as they were when the window began, and what became of the windows before.
#[derive(Debug)]
pub(crate) struct Stages {
    began: Instant,
    own: Duration,
    plugins: HashMap<PluginName, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    time: Duration,
    /// Windows in a row that speak against the present state.
    contrary: u32,
    part: Part,
}

impl Stages {
    /// Begins the first window.
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, own: Duration::ZERO, plugins: HashMap::new() }
    }

    /// Ends the window, if it is time to. `own` is the gateway's own time since the process began, `plugins` each one's part
    /// of it. What comes back is what has turned; `None` where the window goes on.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        own: Duration,
        plugins: &[(PluginName, Duration)],
    ) -> Option<Vec<Turned>> {
        if now.saturating_duration_since(self.began) < WINDOW {
            return None;
        }
        self.began = now;
        let before = |name: &PluginName| self.plugins.get(name).map_or(Duration::ZERO, |watched| watched.time);
        let taken: Vec<Duration> = plugins.iter().map(|(name, time)| time.saturating_sub(before(name))).collect();
        // Requests that a plugin answered itself are not in what the gateway added to those of upstreams.
        let whole = own.saturating_sub(self.own).max(taken.iter().sum());
        self.own = own;

        let mut watched = HashMap::with_capacity(plugins.len());
        let mut turned = Vec::new();
        for ((name, time), taken) in plugins.iter().zip(taken) {
            let mut one = self.plugins.remove(name).unwrap_or_default();
            one.time = *time;
            one.part.share = if whole < LEAST { 0.0 } else { taken.as_secs_f64() / whole.as_secs_f64() };
            let is_undue = one.part.share > UNDUE;
            one.contrary = if is_undue == one.part.is_slow { 0 } else { one.contrary + 1 };
            if one.contrary == IN_A_ROW {
                one.contrary = 0;
                one.part.is_slow = is_undue;
                turned.push(Turned { plugin: name.clone(), part: one.part });
            }
            watched.insert(name.clone(), one);
        }
        // Those that are configured no longer go with their state.
        self.plugins = watched;
        Some(turned)
    }

    /// What is known of a plugin.
    pub(crate) fn part(&self, plugin: &PluginName) -> Part {
        self.plugins.get(plugin).map(|watched| watched.part).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use sluice_vocabulary::clock::{Clock as _, ManualClock};

    use super::*;

    /// Two plugins, and a gateway that is busy for a second in each window.
    struct World {
        clock: ManualClock,
        stages: Stages,
        own: Duration,
        times: [Duration; 2],
    }

    impl World {
        fn new() -> Self {
            let clock = ManualClock::at(1_800_000_000);
            let stages = Stages::new(clock.now());
            Self { clock, stages, own: Duration::ZERO, times: [Duration::ZERO; 2] }
        }

        /// A window in which the plugins take so many hundredths of `busy`; who turned in it, and to what.
        fn window_of(&mut self, busy: Duration, hundredths: [u32; 2]) -> Vec<(String, bool)> {
            self.own += busy;
            for (time, hundredths) in self.times.iter_mut().zip(hundredths) {
                *time += busy * hundredths / 100;
            }
            self.clock.advance(WINDOW);
            let names = ["a", "b"].map(|name| PluginName::new(name).unwrap());
            let plugins: Vec<_> = names.into_iter().zip(self.times).collect();
            let turned = self.stages.look(self.clock.now(), self.own, &plugins).unwrap();
            turned.into_iter().map(|turned| (turned.plugin.to_string(), turned.part.is_slow)).collect()
        }

        fn window(&mut self, hundredths: [u32; 2]) -> Vec<(String, bool)> {
            self.window_of(Duration::from_secs(1), hundredths)
        }
    }

    #[test]
    fn a_plugin_that_takes_too_much_three_times_in_a_row_is_named_once() {
        let mut world = World::new();
        assert!(world.window([41, 5]).is_empty());
        assert!(world.window([60, 5]).is_empty());
        assert_eq!(world.window([41, 5]), [("a".to_owned(), true)]);
        assert!(world.window([90, 5]).is_empty());
        let a = world.stages.part(&PluginName::new("a").unwrap());
        assert!(a.is_slow && (a.share - 0.9).abs() < 1e-6, "{a:?}");
        assert!(!world.stages.part(&PluginName::new("b").unwrap()).is_slow);
    }

    #[test]
    fn the_report_ends_after_three_good_windows_in_a_row() {
        let mut world = World::new();
        for _ in 0..3 {
            world.window([50, 0]);
        }
        for hundredths in [10, 10, 50, 10, 10] {
            assert!(world.window([hundredths, 0]).is_empty());
        }
        assert_eq!(world.window([10, 0]), [("a".to_owned(), false)]);
    }

    #[test]
    fn a_burst_and_a_fair_share_are_no_report() {
        let mut world = World::new();
        for hundredths in [[90, 0], [90, 0], [40, 40], [90, 0], [90, 0], [39, 0], [40, 40]] {
            assert!(world.window(hundredths).is_empty());
        }
    }

    #[test]
    fn an_idle_gateway_says_nothing_of_anybody() {
        let mut world = World::new();
        for _ in 0..9 {
            assert!(world.window_of(Duration::from_millis(9), [100, 0]).is_empty());
        }
    }

    #[test]
    fn a_window_is_not_looked_at_before_its_end() {
        let mut world = World::new();
        world.clock.advance(WINDOW - Duration::from_millis(1));
        assert_eq!(world.stages.look(world.clock.now(), Duration::from_secs(9), &[]), None);
    }

    #[test]
    fn a_plugin_that_answers_everything_itself_is_the_whole() {
        let mut world = World::new();
        for _ in 0..3 {
            // Nothing of it is in what was added to answers of upstreams.
            world.times[0] += Duration::from_secs(1);
            world.window_of(Duration::ZERO, [0, 0]);
        }
        let a = world.stages.part(&PluginName::new("a").unwrap());
        assert!(a.is_slow && (a.share - 1.0).abs() < 1e-6, "{a:?}");
    }
}
