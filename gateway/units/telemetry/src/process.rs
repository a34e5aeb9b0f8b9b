//! What the kernel accounts to the process, read when the page is asked for.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads `/proc/self` at every scrape.
#[derive(Debug)]
pub struct Process {
    /// Seconds since the epoch.
    started: f64,
    ticks_per_second: f64,
    page_bytes: u64,
}

impl Process {
    /// Of this process, which is taken to start now.
    pub fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        Self {
            started,
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            page_bytes: rustix::param::page_size() as u64,
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        if let Some(stat) = &stat {
            let resident = stat.resident_pages * self.page_bytes;
            gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), resident)?;
            gauge("process_virtual_memory", "Address space", Some(&Unit::Bytes), stat.virtual_bytes)?;
            gauge("process_threads", "Threads", None, stat.threads)?;
        }
        if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
            // One of them is that of the directory being read.
            let open = (descriptors.count() as u64).saturating_sub(1);
            gauge("process_open_fds", "Open file descriptors", None, open)?;
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            gauge("process_max_fds", "File descriptors that may be open", None, most)?;
        }
        let started = ConstGauge::new(self.started);
        started.encode(encoder.encode_descriptor(
            "process_start_time",
            "When the process started, since the Unix epoch",
            Some(&Unit::Seconds),
            started.metric_type(),
        )?)?;
        if let Some(stat) = &stat {
            let cpu = ConstCounter::new(stat.cpu_ticks as f64 / self.ticks_per_second);
            cpu.encode(encoder.encode_descriptor(
                "process_cpu",
                "Processor time used, user and system",
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// What is used of `/proc/self/stat` (proc(5)).
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the name in brackets, which may hold anything; the third comes after the last bracket.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_shift_the_fields() {
        let line = "1 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 20 0 0 20 0 7 0 555 4096 33 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.cpu_ticks, stat.threads, stat.virtual_bytes, stat.resident_pages), (120, 7, 4096, 33));
    }
}
