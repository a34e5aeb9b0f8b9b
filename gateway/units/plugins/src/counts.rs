//! Counts of the plugins' own: few names, few series, found without a lock.
//!
//! A plugin meets all of its series soon and the same ones for ever after. So they are in a map that is never changed:
//! finding one is a load and a look-up, and a new one, of which there are a few hundred in a plugin's life, copies the map.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_vocabulary::PluginName;
use smallvec::SmallVec;

use crate::contract::metrics::MetricFault;
use crate::host::is_metric_name;
use crate::lasting::Counted;

const MOST_NAMES: usize = 32;
const MOST_SERIES: usize = 256;
const MOST_LABELS: usize = 4;
/// Bytes of a label's value.
const LONGEST_VALUE: usize = 64;
/// Labels that are not a plugin's to give: ours, and those that mean something to who reads the page.
const TAKEN: [&str; 4] = ["plugin", "name", "le", "quantile"];

type Level = Gauge<f64, AtomicU64>;
/// `plugin`, `name`, and the plugin's own in alphabetical order.
type Labels = Vec<(String, String)>;

/// All plugins' counts, as the page shows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Families {
    counts: Family<Labels, Counter>,
    levels: Family<Labels, Level>,
}

impl Families {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let families = Self::default();
        registry.register(
            "count",
            "What plugins count, by plugin, name and the plugin's own labels",
            families.counts.clone(),
        );
        registry.register(
            "gauge",
            "What plugins measure, by plugin, name and the plugin's own labels",
            families.levels.clone(),
        );
        families
    }
}

#[derive(Debug, Clone)]
enum Series {
    Count(Counter),
    Level(Level),
}

/// What is counted so far.
#[derive(Debug, Clone, Default)]
struct Known {
    series: HashMap<Box<[u8]>, (Series, Labels), foldhash::fast::RandomState>,
    /// Each name, and whether it is a counter's.
    names: HashMap<Box<str>, bool, foldhash::fast::RandomState>,
}

/// One plugin's counts.
#[derive(Debug)]
pub(crate) struct Counts {
    plugin: PluginName,
    families: Families,
    known: ArcSwap<Known>,
    adding: Mutex<()>,
    /// What was not counted for want of room.
    dropped: Counter,
}

impl Counts {
    pub(crate) fn new(plugin: PluginName, families: Families, dropped: Counter) -> Self {
        Self { plugin, families, known: ArcSwap::default(), adding: Mutex::default(), dropped }
    }

    pub(crate) fn add(&self, name: &str, labels: &[(String, String)], amount: u64) -> Result<(), MetricFault> {
        match self.series(name, labels, true)? {
            Series::Count(count) => drop(count.inc_by(amount)),
            Series::Level(_) => return Err(MetricFault::OtherKind),
        }
        Ok(())
    }

    pub(crate) fn set(&self, name: &str, labels: &[(String, String)], value: f64) -> Result<(), MetricFault> {
        if !value.is_finite() {
            return Err(MetricFault::Invalid);
        }
        match self.series(name, labels, false)? {
            Series::Level(level) => drop(level.set(value)),
            Series::Count(_) => return Err(MetricFault::OtherKind),
        }
        Ok(())
    }

    fn series(&self, name: &str, labels: &[(String, String)], is_count: bool) -> Result<Series, MetricFault> {
        let labels = checked(name, labels)?;
        let key = key(name, &labels);
        if let Some((series, _)) = self.known.load().series.get(&key[..]) {
            return Ok(series.clone());
        }
        let made = self.make(name, &labels, &key, is_count);
        if matches!(made, Err(MetricFault::Full)) {
            self.dropped.inc();
        }
        made
    }

    fn make(
        &self,
        name: &str,
        labels: &[&(String, String)],
        key: &[u8],
        is_count: bool,
    ) -> Result<Series, MetricFault> {
        let _one_at_a_time = self.adding.lock();
        let known = self.known.load();
        if let Some((series, _)) = known.series.get(key) {
            return Ok(series.clone());
        }
        match known.names.get(name) {
            Some(kind) if *kind != is_count => return Err(MetricFault::OtherKind),
            None if known.names.len() == MOST_NAMES => return Err(MetricFault::Full),
            _ if known.series.len() == MOST_SERIES => return Err(MetricFault::Full),
            _ => {}
        }
        let ours = [("plugin", self.plugin.as_str()), ("name", name)];
        let mut shown: Labels = ours.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        shown.extend(labels.iter().map(|label| (*label).clone()));
        let series = if is_count {
            Series::Count(self.families.counts.get_or_create(&shown).clone())
        } else {
            Series::Level(self.families.levels.get_or_create(&shown).clone())
        };
        let mut more = Known::clone(&known);
        more.names.insert(name.into(), is_count);
        more.series.insert(key.into(), (series.clone(), shown));
        self.known.store(Arc::new(more));
        Ok(series)
    }

    /// All there are, in the order of names and labels.
    pub(crate) fn all(&self) -> Vec<Counted> {
        let known = self.known.load();
        let shown = known.series.values().map(|(series, labels)| {
            let value = match series {
                // Beyond 2^53 a count is told to the nearest number there is.
                Series::Count(count) => count.get() as f64,
                Series::Level(level) => level.get(),
            };
            // The first two are ours: the plugin's name and the series'.
            let name = labels.get(1).map(|(_, name)| name.clone()).unwrap_or_default();
            Counted { name, labels: labels.iter().skip(2).cloned().collect(), value }
        });
        let mut all: Vec<_> = shown.collect();
        all.sort_by(|one, other| (&one.name, &one.labels).cmp(&(&other.name, &other.labels)));
        all
    }

    /// Takes them off the page: the plugin is gone.
    pub(crate) fn forget(&self) {
        let _one_at_a_time = self.adding.lock();
        let known = self.known.swap(Arc::default());
        for (series, labels) in known.series.values() {
            match series {
                Series::Count(_) => self.families.counts.remove(labels),
                Series::Level(_) => self.families.levels.remove(labels),
            };
        }
    }
}

/// The labels in alphabetical order, where all is as it must be.
fn checked<'l>(
    name: &str,
    labels: &'l [(String, String)],
) -> Result<SmallVec<[&'l (String, String); MOST_LABELS]>, MetricFault> {
    let is_label = |(label, value): &(String, String)| {
        is_metric_name(label)
            && !TAKEN.contains(&label.as_str())
            && value.len() <= LONGEST_VALUE
            && !value.chars().any(char::is_control)
    };
    if !is_metric_name(name) || labels.len() > MOST_LABELS || !labels.iter().all(is_label) {
        return Err(MetricFault::Invalid);
    }
    let mut sorted: SmallVec<[_; MOST_LABELS]> = labels.iter().collect();
    sorted.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) { Err(MetricFault::Invalid) } else { Ok(sorted) }
}

/// What a series is found by: neither names nor values can hold the byte between them.
fn key(name: &str, labels: &[&(String, String)]) -> SmallVec<[u8; 128]> {
    let mut key = SmallVec::from_slice(name.as_bytes());
    for (label, value) in labels {
        for part in [label, value] {
            key.push(0);
            key.extend_from_slice(part.as_bytes());
        }
    }
    key
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    struct World {
        registry: Registry,
        counts: Counts,
    }

    fn world() -> World {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let counts = Counts::new(PluginName::new("p").unwrap(), families, Counter::default());
        World { registry, counts }
    }

    fn page(world: &World) -> Vec<String> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &world.registry).unwrap();
        let mut lines: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn label(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn counts_are_shown_with_their_plugin_whatever_the_order_of_labels() {
        let world = world();
        world.counts.add("hits", &[label("b", "2"), label("a", "1")], 3).unwrap();
        world.counts.add("hits", &[label("a", "1"), label("b", "2")], 4).unwrap();
        world.counts.set("depth", &[], 1.5).unwrap();
        assert_eq!(
            page(&world),
            [r#"count_total{plugin="p",name="hits",a="1",b="2"} 7"#, r#"gauge{plugin="p",name="depth"} 1.5"#,]
        );
        world.counts.forget();
        assert_eq!(page(&world), [""; 0]);
    }

    #[test]
    fn names_and_series_are_bounded() {
        let world = world();
        for n in 0..MOST_SERIES {
            world.counts.add("many", &[label("n", &n.to_string())], 1).unwrap();
        }
        assert_eq!(world.counts.add("many", &[label("n", "one more")], 1), Err(MetricFault::Full));
        assert_eq!(world.counts.dropped.get(), 1);
        world.counts.add("many", &[label("n", "7")], 1).unwrap();

        let world = self::world();
        for n in 0..MOST_NAMES {
            world.counts.set(&format!("n{n}"), &[], 1.0).unwrap();
        }
        assert_eq!(world.counts.set("one_more", &[], 1.0), Err(MetricFault::Full));
    }

    #[test]
    fn what_would_spoil_the_page_is_not_counted() {
        let world = world();
        let five = ["a", "b", "c", "d", "e"].map(|name| label(name, "1"));
        for (name, labels) in [
            ("", &[][..]),
            ("Upper", &[]),
            ("a-b", &[]),
            ("9a", &[]),
            ("ok", &five),
            ("ok", &[label("plugin", "other")]),
            ("ok", &[label("le", "1")]),
            ("ok", &[label("a", "1"), label("a", "2")]),
            ("ok", &[label("a", "x\ny")]),
            ("ok", &[label("a", &"v".repeat(65))]),
        ] {
            assert_eq!(world.counts.add(name, labels, 1), Err(MetricFault::Invalid), "{name:?} {labels:?}");
        }
        assert_eq!(world.counts.set("ok", &[], f64::NAN), Err(MetricFault::Invalid));
        world.counts.add("kind", &[], 1).unwrap();
        assert_eq!(world.counts.set("kind", &[], 1.0), Err(MetricFault::OtherKind));
        assert_eq!(world.counts.set("kind", &[label("a", "1")], 1.0), Err(MetricFault::OtherKind));
    }
}
