//! The tables. The sizes here are the smallest that work; the observer sets the real ones before loading.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf},
};
use sluice_ebpf_common::{ConnectionRecord, EndpointCounters, EndpointKey, GlobalCounter};

/// Living connections by socket cookie. Least recently used ones give way when it is full; ended ones are taken out.
#[map]
pub(crate) static CONNECTIONS: LruHashMap<u64, ConnectionRecord> = LruHashMap::with_max_entries(1024, 0);

/// Connections that ended abnormally, by socket cookie, so that whoever held one can still ask what happened.
#[map]
pub(crate) static ENDED: LruHashMap<u64, ConnectionRecord> = LruHashMap::with_max_entries(256, 0);

/// What was counted, per endpoint and processor.
#[map]
pub(crate) static ENDPOINTS: LruPerCpuHashMap<EndpointKey, EndpointCounters> =
    LruPerCpuHashMap::with_max_entries(64, 0);

/// What belongs to no endpoint.
#[map]
pub(crate) static GLOBALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(GlobalCounter::SLOTS, 0);

/// Abnormal ends, in order.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// The processes to watch, where the filter for them is on.
#[map]
pub(crate) static PROCESSES: HashMap<u32, u8> = HashMap::with_max_entries(64, 0);

/// The ports to watch, where the filter for them is on.
#[map]
pub(crate) static PORTS: HashMap<u16, u8> = HashMap::with_max_entries(64, 0);
