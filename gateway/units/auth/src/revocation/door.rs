//! What operators see of revocations, and order: the port that the admin's door asks for.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use sluice_vocabulary::ports::{Revoke, RevokeFault};
use sluice_vocabulary::unit::BoxFuture;

use crate::unit::Handle;

use super::record::{self, BadLines, Kind, Record, Target};
use super::{Heard, Journal, OPEN, Revocations, Way};

impl Revoke for Handle {
    fn revocations(&self, limit: usize) -> BoxFuture<'_, Value> {
        let revocations = Arc::clone(&self.core.revocations);
        // A list is copied a shard at a time, which is too much for a thread that must not wait.
        Box::pin(async move { join(tokio::task::spawn_blocking(move || revocations.page(limit)).await, Value::Null) })
    }

    fn revoke(&self, lines: Bytes) -> BoxFuture<'_, Result<Value, RevokeFault>> {
        self.order(move |revocations| revocations.revoke(&lines))
    }

    fn lift(&self, lines: Bytes) -> BoxFuture<'_, Result<Value, RevokeFault>> {
        self.order(move |revocations| revocations.lift_all(&lines))
    }
}

impl Handle {
    /// Carries out an order to its end, whether or not its sender waits for that.
    fn order(
        &self,
        order: impl FnOnce(&Revocations) -> Result<Value, RevokeFault> + Send + 'static,
    ) -> BoxFuture<'_, Result<Value, RevokeFault>> {
        let core = Arc::clone(&self.core);
        let work = tokio::task::spawn_blocking(move || {
            let outcome = order(&core.revocations);
            core.tell_health();
            outcome
        });
        Box::pin(
            async move { join(work.await, Err(RevokeFault::NotStored("the order failed; the log says why".into()))) },
        )
    }
}

/// The outcome of blocking work; `failed` where it panicked.
fn join<T>(outcome: Result<T, tokio::task::JoinError>, failed: T) -> T {
    outcome.unwrap_or_else(|error| {
        tracing::error!(error = %error, "work on revocations failed");
        failed
    })
}

impl Revocations {
    /// Whether the target's issuer is configured: a slip in its name would revoke nothing.
    pub(super) fn known(&self, target: &Target) -> Result<(), String> {
        if self.issuers.load().contains(&target.issuer) {
            return Ok(());
        }
        Err(format!("there is no issuer {}: expected a name that stands under issuers", target.issuer))
    }

    fn read_all<T>(
        &self,
        lines: &[u8],
        parse: impl Fn(&[u8]) -> Result<T, String>,
        target: impl Fn(&T) -> &Target,
    ) -> Result<Vec<T>, RevokeFault> {
        let mut bad = BadLines::default();
        let mut all = Vec::new();
        for (number, line) in record::lines(lines) {
            match line.and_then(&parse).and_then(|read| self.known(target(&read)).map(|()| read)) {
                Ok(read) => all.push(read),
                Err(why) => bad.push(number, why),
            }
        }
        self.metrics.read(Way::Door, if bad.count == 0 { "ok" } else { "bad-lines" }, bad.count);
        if bad.count > 0 {
            return Err(RevokeFault::BadLines(bad.told, bad.count));
        }
        Ok(all)
    }

    /// While the store is not read, its lines could undo what is ordered now.
    fn must_be_loaded(&self) -> Result<(), RevokeFault> {
        if self.is_loaded(&self.plan.load()) {
            return Ok(());
        }
        Err(RevokeFault::NotStored("nothing was done, since the store is not read yet".into()))
    }

    fn revoke(&self, lines: &[u8]) -> Result<Value, RevokeFault> {
        self.must_be_loaded()?;
        let records = self.read_all(lines, Record::parse, |record| &record.target)?;
        let taken = self.take(&records);
        tracing::info!(new = taken.new, known = taken.known, expired = taken.expired, "revocations ordered");
        let kept = self.keep();
        if taken.full > 0 {
            let (full, all) = (taken.full, records.len());
            return Err(RevokeFault::Full(format!(
                "{full} of {all} revocations find no room in auth.revocation.max_memory; the others are in force"
            )));
        }
        kept.map_err(|why| RevokeFault::NotStored(format!("they are in force, but not in the store: {why}")))?;
        Ok(json!({ "revoked": taken.new, "known": taken.known, "expired": taken.expired }))
    }

    fn lift_all(&self, lines: &[u8]) -> Result<Value, RevokeFault> {
        self.must_be_loaded()?;
        let targets = self.read_all(lines, Target::parse, |target| target)?;
        let lifted = self.lift(&targets);
        tracing::info!(lifted, "revocations lifted");
        self.keep().map_err(|why| RevokeFault::NotStored(format!("they are lifted, but not in the store: {why}")))?;
        Ok(json!({ "lifted": lifted, "unknown": targets.len() as u64 - lifted }))
    }

    /// The page `/revocations`.
    fn page(&self, limit: usize) -> Value {
        let plan = self.plan.load_full();
        let entries: serde_json::Map<_, _> =
            Kind::ALL.iter().map(|kind| (kind.name().to_owned(), self.list.count(*kind).into())).collect();
        let store = plan.store.as_ref().map(|folder| {
            let behind = self.desk.lock().journal == Journal::Behind;
            let state = match (self.is_loaded(&plan), behind) {
                (false, _) => "not read",
                (true, true) => "behind",
                (true, false) => "ready",
            };
            let error = self.kept.lock().fault.clone();
            json!({ "folder": folder.display().to_string(), "state": state, "bytes": self.store_bytes(), "last_error": error })
        });
        let feed = |heard: &Heard, source: String| {
            json!({
                "source": source,
                "heard_seconds_ago": heard.last.map(|last| self.clock.now().saturating_duration_since(last).as_secs()),
                "reads": heard.reads,
                "bad_lines": heard.bad.count,
                "first_bad_lines": heard.bad.told,
                "last_error": heard.error,
            })
        };
        let mut feeds = serde_json::Map::new();
        if let Some(file) = &plan.file {
            feeds.insert(Way::File.name().into(), feed(&self.file.lock(), file.display().to_string()));
        }
        if let Some(url) = &plan.config.url {
            feeds.insert(Way::Url.name().into(), feed(&self.url.lock(), url.url.clone()));
        }
        let mut records = Vec::new();
        if limit > 0 {
            // Breaking off is how the list is told that it is enough.
            let _ = self.list.each(|record| {
                records.push(record.to_value());
                if records.len() < limit { Ok(()) } else { Err(()) }
            });
        }
        json!({
            "entries": entries,
            "memory": { "bytes": self.list.bytes(), "limit": plan.config.max_memory.get() },
            "tokens_wait": self.gate.load(std::sync::atomic::Ordering::Acquire) != OPEN,
            "store": store,
            "feeds": feeds,
            "records": records,
        })
    }
}
