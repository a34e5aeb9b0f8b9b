//! Plugins that decide who may pass: where one did not decide, nothing passes.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use sluice_plugins::{Compare, Fallback, OnFailure, Options, Outcome, PluginConfig, QuarantineConfig};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Faults, Path, Severity};

use crate::world::{World, hostile, plugin, prebuilt, request, response, visit};

fn faults_of(plugin: &PluginConfig) -> Vec<(Severity, String)> {
    let mut faults = Faults::new();
    plugin.validate(&Path::root().key("plugins").key("p"), &mut faults);
    faults.iter().map(|fault| (fault.severity, fault.to_string())).collect()
}

#[test]
fn a_plugin_that_decides_cannot_be_skipped_and_one_that_may_is_warned_of() {
    let mut plugin = plugin("add_region_rust.wasm", json!({}));
    plugin.sha256 = Some("0".repeat(64));
    plugin.on_failure = OnFailure::Skip;
    for (decides, severity) in
        [(Some(true), Some(Severity::Error)), (None, Some(Severity::Warning)), (Some(false), None)]
    {
        plugin.decides = decides;
        let faults = faults_of(&plugin);
        assert_eq!(faults.first().map(|(severity, _)| *severity), severity, "{faults:?}");
        assert!(faults.iter().all(|(_, said)| said.starts_with("plugins.p.on_failure: ")), "{faults:?}");
        assert!(faults.len() <= 1, "{faults:?}");
    }
    plugin.on_failure = OnFailure::Refuse;
    for decides in [Some(true), None, Some(false)] {
        plugin.decides = decides;
        assert_eq!(faults_of(&plugin), []);
    }
}

/// What a plugin can do instead of deciding.
const FAILURES: [&str; 14] = [
    "trap",
    "error",
    "loop",
    "call-storm",
    "grow",
    "recurse",
    "flood-headers",
    "long-header",
    "split-header",
    "framing-header",
    "huge-answer",
    "odd-status",
    "split-answer",
    "unheard-of",
];

#[derive(Debug, Clone)]
struct Case {
    does: &'static str,
    /// Whether there is a second implementation, which does the same.
    has_second: bool,
    compare: f64,
    after: u32,
    is_response: bool,
    /// How the sandbox is: of so few instances that all are taken, or with room.
    crowded: bool,
    upgrade: bool,
    calls: usize,
}

fn cases() -> impl Strategy<Value = Case> {
    (
        prop::sample::select(&FAILURES[..]),
        any::<bool>(),
        0.0..=1.0,
        1_u32..4,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        1_usize..5,
    )
        .prop_map(|(does, has_second, compare, after, is_response, crowded, upgrade, calls)| Case {
            does,
            has_second,
            compare,
            after,
            is_response,
            crowded,
            upgrade,
            calls,
        })
}

impl Case {
    fn plugin(&self) -> PluginConfig {
        let mut plugin = hostile(json!({ "does": self.does }));
        plugin.decides = Some(true);
        plugin.limits.deadline = Span::millis(3);
        plugin.limits.memory = ByteSize::mib(4);
        plugin.fallback = self.has_second.then(|| Fallback {
            compare: Compare::Share(self.compare),
            quarantine: QuarantineConfig { after: self.after, probe_after: Span::millis(1), ..Default::default() },
            ..Fallback::new(sluice_plugins::ComponentSource::File(prebuilt("hostile.wasm")))
        });
        plugin
    }

    async fn lets_nothing_pass(&self) {
        let (instances, queue) =
            if self.crowded { (1, Duration::from_millis(1)) } else { (8, Duration::from_millis(50)) };
        let world = World::with(Options { instances, queue }).await;
        let plugin = self.plugin();
        assert!(!faults_of(&plugin).iter().any(|(severity, _)| *severity == Severity::Error));
        let mut holding = hostile(json!({ "does": "loop" }));
        holding.limits.deadline = Span::secs(1);
        let loaded = world.load(&[("p", plugin), ("holds", holding)]).await.unwrap();
        let holds = self.crowded.then(|| {
            let chain = loaded.each["holds"].clone();
            tokio::spawn(async move { chain.on_request(request(&[]), &mut visit()).await })
        });
        while self.crowded && world.metric("instances{plugin=\"holds\"}") == 0.0 {
            tokio::task::yield_now().await;
        }
        let fields: &[(&str, &str)] =
            if self.upgrade { &[("connection", "upgrade"), ("upgrade", "websocket")] } else { &[] };
        for _ in 0..self.calls {
            let outcome = if self.is_response {
                let sent = std::sync::Arc::new(request(fields));
                loaded.each["p"].on_response(sent, response(&[]), &mut visit()).await.1
            } else {
                loaded.each["p"].on_request(request(fields), &mut visit()).await.1
            };
            assert!(matches!(outcome, Outcome::Refuse(_)), "{self:?}: {outcome:?}");
        }
        if let Some(holds) = holds {
            holds.abort();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_deciding_plugin_that_did_not_decide_lets_nothing_pass(case in cases()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case.lets_nothing_pass());
    }
}
