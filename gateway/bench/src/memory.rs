//! Resident memory of an idle gateway: with next to nothing configured, with a thousand routes and tenants, with a hundred
//! plugins.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_testkit::{GatewayBuilder, gateway, origin};

use crate::error::{Context, Result};
use crate::machine;
use crate::room::Room;

/// How long a gateway that is ready is left alone before it is weighed.
const SETTLE: Duration = Duration::from_secs(2);

/// What a gateway weighs, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) began: String,
    pub(crate) commit: String,
    pub(crate) idle: u64,
    pub(crate) thousand_routes_and_tenants: u64,
    /// A hundred names for one component, each with settings of its own: what a plugin costs beside its code.
    pub(crate) hundred_plugins: u64,
}

/// The budgets, in the order of the fields.
const BUDGETS: [f64; 3] = [40e6, 80e6, 200e6];

/// Weighs `sluice`.
pub(crate) fn memory(room: &Room, sluice: &Path) -> Result<Memory> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "cannot start a runtime".to_owned())?;
    runtime.block_on(async {
        let origin = origin().run().await;
        let prepared = || gateway().binary(sluice).set("origin", origin.address());
        let component = room.component();
        Ok(Memory {
            began: machine::now(),
            commit: machine::commit(room),
            idle: weigh(prepared().config(&small())).await,
            thousand_routes_and_tenants: weigh(prepared().config(&many_routes(1000))).await,
            hundred_plugins: weigh(prepared().config(&many_plugins(100, &component))).await,
        })
    })
}

impl Memory {
    /// Three lines for people.
    pub(crate) fn table(&self) -> String {
        let weights = [
            ("idle", self.idle),
            ("1 000 routes and 1 000 tenants", self.thousand_routes_and_tenants),
            ("100 plugins", self.hundred_plugins),
        ];
        let mut text = String::new();
        for ((what, bytes), budget) in weights.into_iter().zip(BUDGETS) {
            let verdict = if bytes as f64 <= budget { "met" } else { "MISSED" };
            let (bytes, budget) = (bytes as f64 / 1e6, budget / 1e6);
            let _ = writeln!(text, "{what:<32}{bytes:>8.1} MB, budget {budget:.0} MB: {verdict}");
        }
        text
    }
}

async fn weigh(builder: GatewayBuilder) -> u64 {
    let gateway = builder.run().await;
    tokio::time::sleep(SETTLE).await;
    let bytes = gateway.resident_bytes();
    gateway.stop().await;
    bytes
}

const UPSTREAM: &str = "upstreams:\n  origin: { endpoints: [\"@origin@\"] }\n";

fn small() -> String {
    format!("{UPSTREAM}routes:\n  - {{ name: all, match: {{ path: \"/*\" }}, upstream: origin }}\n")
}

fn many_routes(count: usize) -> String {
    let mut text = format!("{UPSTREAM}tenants:\n  identify: [{{ header: x-tenant-id }}]\n  overrides:\n");
    for number in 0..count {
        let _ = writeln!(text, "    tenant-{number}: {{ rate: {{ requests: {}, per: 1s }} }}", number + 1);
    }
    text.push_str("routes:\n");
    for number in 0..count {
        let _ = writeln!(
            text,
            "  - {{ name: route-{number}, match: {{ host: h{number}.example, path: \"/orders-{number}/*\" }}, upstream: origin }}"
        );
    }
    text
}

fn many_plugins(count: usize, component: &Path) -> String {
    let mut text = format!("{UPSTREAM}plugins:\n");
    for number in 0..count {
        let component = component.display();
        let _ = writeln!(text, "  plugin-{number}: {{ component: \"{component}\", config: {{ region: r{number} }} }}");
    }
    text.push_str("routes:\n");
    for number in 0..count {
        let _ = writeln!(
            text,
            "  - {{ name: route-{number}, match: {{ path: \"/r{number}/*\" }}, plugins: [plugin-{number}], upstream: origin }}"
        );
    }
    text
}
